"""`dua privacy`: the privacy card of a run: what users sent, what an attack gets from it, and what it is worth."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from dua_lightning.commands.report import Parser
from dua_lightning.errors import InputError
from dua_lightning.progress import shown, stage
from dua_lightning.report.terminal import Column, Sheet, Terminal

if TYPE_CHECKING:
    import pandas as pd


def main(arguments: Sequence[str]) -> int:
    """Print the card of a run and write it into its folder, or make a pair of keys.

    Args:
        arguments: The words of the command line.

    Returns:
        The exit status.

    Raises:
        InputError: The run cannot be read, or a file cannot be written.
    """
    parser = Parser(prog="dua privacy", description=__doc__)
    parser.add_argument("run", nargs="?", type=Path, metavar="RUN", help="the folder of a run")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write the card (default: RUN)")
    parser.add_argument(
        "--new-key",
        type=Path,
        metavar="FILE",
        help="make a pair of keys that sign priors: FILE stays with its owner, FILE.pub is for the server",
    )
    given = parser.parse_args(arguments)
    if (given.run is None) == (given.new_key is None):
        raise InputError("dua privacy takes the folder of a run, or --new-key FILE; dua privacy --help shows how")
    if given.new_key is not None:
        from dua_lightning.privacy.keys import new_key

        for path in new_key(given.new_key):
            Terminal().print(f"  {path}")
        return 0
    # Help does without pandas and torch, which take seconds to load.
    from dua_lightning.report import card, runs
    from dua_lightning.report.tables import answered
    from dua_lightning.store.files import write_text

    console = Terminal()
    with shown(Terminal(stderr=True)), stage("reading the run"):
        found = card.card(runs.study([given.run]))
    if found.empty:
        console.print(card.NOBODY)
        return 0
    with shown(Terminal(stderr=True)):
        found = tried(found, given.run)
    console.print(sheet(found))
    console.print(answered(card.answers(found), console.width))
    path = (given.out or given.run) / card.FILE
    write_text(path, found.to_csv(index=False))
    console.print(f"  {path}")
    return 0


def tried(found: "pd.DataFrame", run: Path) -> "pd.DataFrame":
    """Try what an attack gets from the priors of a run's rows.

    Args:
        found: The lines of `report.card.card`.
        run: The run's folder.

    Returns:
        The lines with what it got, as far as it could be tried; the reason is printed where it could not.
    """
    from dua_lightning.run.attacked import attacked

    found = found.set_index("row")
    try:
        for label, got in attacked(run):
            if label in found.index:
                line = asdict(got)
                line["recovered CI"] = line.pop("half")
                found.loc[label, [*line]] = [*line.values()]
    except InputError as error:
        Terminal(stderr=True).print(f"no attack was tried: {error}")
    return found.reset_index()


def sheet(found: "pd.DataFrame") -> Sheet:
    """Make the card for the terminal.

    Args:
        found: The lines of `report.card.card`.

    Returns:
        The table.
    """
    from dua_lightning.report.card import NOTE, guarantee
    from dua_lightning.report.ledger import interval_text

    lines = found.to_dict("records")

    def numbers(name: str, spec: str) -> list[str]:
        return ["" if math.isnan(value) else format(value, spec) for value in found[name]]

    def differences(name: str) -> list[str]:
        return [interval_text(*pair) for pair in zip(found[name], found[f"{name} CI"], strict=True)]

    return Sheet(
        "what users' priors give away, and what they are worth",
        [
            Column("row", list(found["row"]), number=False),
            Column("level", list(found["level"]), number=False),
            Column("sent", numbers("sent", ",.0f")),
            Column("plain", numbers("plain", ",.0f")),
            Column("(epsilon, delta)", [guarantee(line) for line in lines]),
            Column("images", numbers("images", ".0f")),
            Column("recovered, %", numbers("recovered", ".0f")),
            Column("control, %", numbers("control", ".0f")),
            Column("gain [95 %]", differences("gain")),
            Column("over noise [95 %]", differences("over noise")),
            Column("cost [95 %]", differences("cost")),
        ],
        NOTE,
    )
