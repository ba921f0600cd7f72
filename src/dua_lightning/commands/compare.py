"""`dua compare`: the settings and results in which two runs or sweeps differ."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from dua_lightning.commands.report import Parser
from dua_lightning.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from dua_lightning.report.runs import Study

OTHERWISE = ("paths.", "command", "method.rows", "suggested.", "trainer.default_root_dir")
"""Settings that change no result, or are shown in another way."""
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
    # Torch takes seconds to load: help does without.
    from dua_lightning.report import runs
    from dua_lightning.report.reduce import compared

    a, b = runs.study([given.A]), runs.study([given.B])
    found = compared(a.reduced.draws, b.reduced.draws)
    if found.empty:
        raise InputError(
            f"{given.A} and {given.B} have no row, user, seed and draw in common; name two runs on the same data"
        )
    console = Console(soft_wrap=True)
    console.print(f"A {given.A}\nB {given.B}", highlight=False)
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


def settings_table(lines: Sequence[tuple[str, str, str]]) -> Table:
    """Make the table of settings for the terminal.

    Args:
        lines: The lines of `settings`.

    Returns:
        The table.
    """
    table = Table(title="settings that differ", title_justify="left")
    for name in ("setting", "A", "B"):
        table.add_column(name, overflow="fold")
    for line in lines:
        table.add_row(*line)
    return table


def results_table(frame: "pd.DataFrame") -> Table:
    """Make the table of results for the terminal.

    Args:
        frame: The lines of `reduce.compared`.

    Returns:
        The table.
    """
    table = Table(
        title="results, paired by row, user, seed and draw",
        caption="accuracy in percent, forgetting in points; ± half the 95 % t interval of B - A; p by Holm",
        title_justify="left",
        caption_justify="left",
    )
    for name in frame:
        table.add_column(str(name), justify="left" if name in ("row", "figure") else "right", no_wrap=name != "row")
    for line in frame.to_dict("records"):
        table.add_row(*_cells(line))
    return table


def _cells(line: Mapping[Hashable, object]) -> Iterator[str]:
    for name, value in line.items():
        if not isinstance(value, float):
            yield str(value)
        elif value != value:
            yield ""
        else:
            yield format(value, {"B - A": "+.2f", "p": ".2g"}.get(str(name), ".2f"))
