"""`dua dashboard`: a workspace and a report in W&B that show the runs of a project."""

from collections.abc import Sequence
from pathlib import Path

from dua_lightning.commands.report import Parser
from dua_lightning.report.terminal import Terminal

NAME = "dua_lightning"
"""The name of a dashboard that is given none."""


def main(arguments: Sequence[str]) -> int:
    """Make the dashboard in W&B and print its addresses, or write it to a file.

    Args:
        arguments: The words of the command line.

    Returns:
        The exit status.

    Raises:
        InputError: The project or a package is missing, the file cannot be written, or W&B does not take the dashboard.
    """
    parser = Parser(prog="dua dashboard", description=__doc__)
    parser.add_argument("project", metavar="ENTITY/PROJECT", help="a user or team of W&B, and a project of theirs")
    parser.add_argument("--name", default=NAME, help="the name of the workspace and title of the report (%(default)s)")
    parser.add_argument("--dry-run", type=Path, metavar="FILE", help="write both as JSON, without a login or a network")
    given = parser.parse_args(arguments)
    # Help does without pandas and W&B, which take seconds to load.
    from dua_lightning.report import dashboard
    from dua_lightning.store.files import write_text

    built = dashboard.build(given.project, given.name)
    if given.dry_run:
        write_text(given.dry_run, built.spec())
    for written in [given.dry_run] if given.dry_run else built.save():
        Terminal().print(f"  {written}")
    return 0
