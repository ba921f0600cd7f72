"""`dua choose`: settings that a server chooses by users it simulates, beside those that scored users would choose."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dua_lightning.commands.report import Parser
from dua_lightning.errors import InputError
from dua_lightning.report.terminal import Column, Sheet, Terminal

if TYPE_CHECKING:
    import pandas as pd

FILE = "choice.csv"
"""The name of the table."""


def main(arguments: Sequence[str]) -> int:
    """Print and write the row of each family that simulated users choose, and the gap to the best on the scored ones.

    Args:
        arguments: The words of the command line.

    Returns:
        The exit status.

    Raises:
        InputError: The two cannot be compared, or the choice would see scored users.
    """
    parser = Parser(prog="dua choose", description=__doc__)
    parser.add_argument("simulated", type=Path, metavar="SIMULATED_RUN", help="a run or a sweep with simulate=...")
    parser.add_argument("scored", type=Path, metavar="RUN", help="the same rows on the benchmark's own users")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: RUN)")
    given = parser.parse_args(arguments)
    # Help does without pandas and matplotlib, which take a second to load.
    from dua_lightning.report import choice, runs
    from dua_lightning.report.records import SIMULATE
    from dua_lightning.store.files import write_text

    studies = {folder: runs.study([folder]) for folder in (given.simulated, given.scored)}
    for folder, wanted in ((given.simulated, True), (given.scored, False)):
        kinds = {str(run.settings.get("simulate.name", SIMULATE)) for run in studies[folder].runs}
        if len(kinds) > 1 or (kinds != {SIMULATE}) != wanted:
            raise InputError(
                f"{folder} has simulate={', '.join(sorted(kinds))}; the first run is one on simulated users, as with "
                "simulate=both, and the second one on the benchmark's own, simulate=none"
            )
    choices = choice.families(studies[given.simulated].reduced.draws)
    if not choices:
        raise InputError(f"{given.simulated} has nothing to choose from: no two of its rows differ in settings alone")
    found = choice.compared(choices, studies[given.scored].reduced.draws)
    out: Path = given.out or given.scored
    write_text(out / FILE, found.round(4).to_csv(index=False))
    console = Terminal()
    console.print(sheet(found))
    console.print(f"  {out / FILE}")
    return 0


def sheet(found: "pd.DataFrame") -> Sheet:
    """Make the table for the terminal.

    Args:
        found: The lines of `report.choice.compared`.

    Returns:
        The table.
    """
    from dua_lightning.report.choice import ORACLE, SERVER
    from dua_lightning.report.ledger import interval_text

    server, oracle = (found[found["selection"] == who] for who in (SERVER, ORACLE))
    return Sheet(
        "the row that the server chooses by simulated users",
        [
            Column("chosen by the server", list(server["row"]), number=False),
            Column("accuracy", [f"{value:.1f}" for value in server["accuracy"]]),
            Column("gap [95 %]", [interval_text(*pair) for pair in zip(server["gap"], server["gap CI"], strict=True)]),
            Column("chosen by the oracle", list(oracle["row"]), number=False),
            Column("accuracy", [f"{value:.1f}" for value in oracle["accuracy"]]),
            Column("among", list(map(str, server["among"]))),
        ],
        "accuracy on the scored users, percent; gap: the oracle's row minus the server's, points, 95 % over users. The "
        "oracle cheats: it chooses by the accuracies that it is scored with.",
    )
