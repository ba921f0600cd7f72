"""`dua compare`: the settings and results in which two runs or sweeps differ."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dua_lightning.commands.report import Parser
from dua_lightning.errors import InputError
from dua_lightning.report.terminal import Column, Sheet, Terminal

if TYPE_CHECKING:
    import pandas as pd

    from dua_lightning.report.runs import Study

OTHERWISE = ("paths.", "command", "method.rows", "suggested.", "trainer.default_root_dir")
"""Settings that change no result, or are shown in another way."""
KEYS = ("row", "figure")
"""The columns that name a line of the results."""
COMMIT = 12
"""So many digits of a commit tell it apart."""


def main(arguments: Sequence[str]) -> int:
    """Print the settings and results in which two runs differ.

    Args:
        arguments: The words of the command line.

    Returns:
        The exit status.

    Raises:
        InputError: The two cannot be compared.
    """
    parser = Parser(prog="dua compare", description=__doc__)
    for name in ("A", "B"):
        parser.add_argument(name, type=Path, help="the folder of a run or of a sweep")
    given = parser.parse_args(arguments)
    # Help does without pandas and matplotlib, which take a second to load.
    from dua_lightning.report import runs
    from dua_lightning.report.reduce import compared

    a, b = runs.study([given.A]), runs.study([given.B])
    found = compared(a.reduced.draws, b.reduced.draws)
    if found.empty:
        raise InputError(
            f"{given.A} and {given.B} have no row, user, seed and draw in common; name two runs on the same data"
        )
    console = Terminal()
    console.print(f"A {given.A}\nB {given.B}")
    differing = settings(a, b)
    console.print(settings_table(differing) if differing else "no setting differs")
    console.print(results_table(found))
    return 0


def settings(a: "Study", b: "Study") -> list[tuple[str, str, str]]:
    """List the rows, settings, versions and commit that differ.

    Settings of a method that only one side has go with its rows, and are left out.

    Args:
        a: One study.
        b: The other one.

    Returns:
        For each setting its name, all values in A, all values in B.
    """
    from dua_lightning.report.runs import OF_ROWS

    left, right = _values(a), _values(b)
    return [
        (name, left.get(name, ""), right.get(name, ""))
        for name in dict.fromkeys([*left, *right])
        if left.get(name) != right.get(name)
        and not name.startswith(OTHERWISE)
        and (not name.startswith(OF_ROWS) or (name in left and name in right))
    ]


def _values(study: "Study") -> dict[str, str]:
    from dua_lightning.report.runs import flat

    found: dict[str, dict[str, None]] = {"rows": dict.fromkeys(study.reduced.draws["label"])}
    for run in study.runs:
        commit = {"git_commit": str(run.environment.get("git_commit"))[:COMMIT]}
        for name, value in {**run.settings, **flat(run.environment), **commit}.items():
            for one in value if isinstance(value, list) else [value]:
                found.setdefault(name, {})[str(one)] = None
    return {name: " | ".join(values) for name, values in found.items()}


def settings_table(lines: Sequence[tuple[str, str, str]]) -> Sheet:
    """Make the table of settings for the terminal.

    Args:
        lines: The lines of `settings`.

    Returns:
        The table.
    """
    cells = zip(*lines, strict=True)
    columns = [Column(name, of, number=False) for name, of in zip(("setting", "A", "B"), cells, strict=True)]
    return Sheet("settings that differ", columns)


def results_table(frame: "pd.DataFrame") -> Sheet:
    """Make the table of results for the terminal.

    Args:
        frame: The lines of `reduce.compared`.

    Returns:
        The table.
    """
    return Sheet(
        "results, paired by row, user, seed and draw",
        [
            Column(str(name), [_cell(str(name), value) for value in values], name not in KEYS)
            for name, values in frame.items()
        ],
        "accuracy in percent, forgetting in points; CI: half the 95 % t interval of B - A; p by Holm",
        keys=len(KEYS),
    )


def _cell(column: str, value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return "" if math.isnan(value) else format(value, {"B - A": "+.2f", "p": ".2g"}.get(column, ".2f"))
