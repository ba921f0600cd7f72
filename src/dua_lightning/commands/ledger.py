"""`dua ledger`: what each step adds over the best that the server does without users, and what their priors add."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dua_lightning.commands.report import Parser
from dua_lightning.errors import InputError
from dua_lightning.report.terminal import Column, Sheet, Terminal

if TYPE_CHECKING:
    import pandas as pd


def main(arguments: Sequence[str]) -> int:
    """Print the ledger of runs, and write it as a table and a figure.

    Args:
        arguments: The words of the command line.

    Returns:
        The exit status.

    Raises:
        InputError: A folder cannot be read or written, or no two rows can be compared.
    """
    parser = Parser(prog="dua ledger", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_OR_SWEEP", help="the folder of a run or of a sweep")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: the first folder)")
    parser.add_argument("--pdf", action="store_true", help="draw the figure as PDF too")
    given = parser.parse_args(arguments)
    # Help does without pandas and matplotlib, which take a second to load.
    import pandas as pd

    from dua_lightning.report import ledger, runs
    from dua_lightning.report.sections import ledgers
    from dua_lightning.report.tables import answered
    from dua_lightning.store.files import write_text

    out: Path = given.out or given.runs[0]
    console = Terminal()
    parts, pictures = [], []
    forms = ("png", "pdf") if given.pdf else ("png",)
    for name, found, answer, picture in ledgers(runs.study(given.runs).reduced, out / "figures", forms):
        console.print(f"{name}: {ledger.note(found)}", soft_wrap=False)
        for title, lines in found.groupby("ledger", sort=False):
            console.print(sheet(str(title), lines))
        if answer:
            console.print(answered([answer], console.width))
        parts.append(found)
        pictures.append(picture)
    if not parts:
        raise InputError(
            f"{' and '.join(map(str, given.runs))} cannot be compared: a ledger needs a row that does without users, "
            "and two rows of one merge; name a run of method=ledger"
        )
    write_text(out / "ledger.csv", pd.concat(parts).round(4).to_csv(index=False))
    for path in (out / "ledger.csv", *pictures):
        console.print(f"  {path}")
    return 0


def sheet(title: str, lines: "pd.DataFrame") -> Sheet:
    """Make the table of a merge's steps, or of priors, for the terminal.

    Args:
        title: The title.
        lines: Some of the lines of `report.ledger.ledger`.

    Returns:
        The table.
    """
    from dua_lightning.report.ledger import interval_text

    def numbers(name: str, spec: str) -> list[str]:
        return ["" if value != value else format(value, spec) for value in lines[name]]

    def differences(name: str) -> list[str]:
        return [interval_text(*pair) for pair in zip(lines[name], lines[f"{name} CI"], strict=True)]

    return Sheet(
        title,
        [
            Column("", list(lines["line"]), number=False),
            Column("accuracy", numbers("accuracy", ".1f")),
            Column("gain [95 %]", differences("gain")),
            Column("step [95 %]", differences("step")),
            Column("lose, %", numbers("lose", ".0f")),
            Column("lose a point, %", numbers("lose a point", ".0f")),
            Column("worst tenth", numbers("worst tenth", "+.1f")),
            Column("std of gain, seeds", numbers("gain std (seeds)", ".1f")),
        ],
    )
