"""`dua compare`: what differs between two runs or sweeps, in settings and in results."""

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

NAMES = ("data", "model", "fidelity")
"""Columns that name a row where a run holds several of them."""
OTHERWISE = ("paths.", "command", "method.rows", "suggested.")
"""Settings that change no result, or are said otherwise."""
COMMIT = 12
"""Digits of a commit that tell it apart."""


def main(arguments: Sequence[str]) -> int:
    """Print both tables; returns the exit status. Raises `InputError` for what cannot be compared."""
    parser = Parser(prog="dua compare", description=__doc__)
    for name in ("A", "B"):
        parser.add_argument(name, type=Path, help="the folder of a run or of a sweep")
    given = parser.parse_args(arguments)
    # Torch takes seconds to load: help does without.
    from dua_lightning.report import runs

    a, b = runs.study([given.A]), runs.study([given.B])
    found = results(a, b)
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
    """Rows, settings, versions and commit that differ: name, all values in A, all values in B.

    Settings of a method that only one side has go with its rows, and are left out.
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

    found: dict[str, dict[str, None]] = {"rows": dict.fromkeys(study.records["label"])}
    for run in study.runs:
        commit = {"git_commit": str(run.environment.get("git_commit"))[:COMMIT]}
        for name, value in {**run.settings, **flat(run.environment), **commit}.items():
            for one in value if isinstance(value, list) else [value]:
                found.setdefault(name, {})[str(one)] = None
    return {name: " | ".join(values) for name, values in found.items()}


def results(a: "Study", b: "Study") -> "pd.DataFrame":
    """For each row and figure of merit B minus A, with interval and corrected p-value, paired as `analysis` pairs.

    Rows are the same by benchmark and label, and by network and fidelity where a run has several; where each side has
    a single row on one benchmark, the two are compared whatever their names. No lines where nothing agrees.
    """
    import pandas as pd

    from dua_lightning.report import analysis
    from dua_lightning.report.statistics import holm, interval, p_value
    from dua_lightning.report.tables import merits

    sides = [merits(study.records) for study in (a, b)]
    several = [name for name in NAMES if name == "data" or any(side[name].nunique() > 1 for side in sides)]
    if all(len(side[["row"]].drop_duplicates()) == 1 for side in sides):
        keys, names = ["data"], " / ".join(dict.fromkeys(side["label"].iloc[0] for side in sides))
    else:
        keys, names = [*several, "label"], None
    pairs = sides[0].merge(sides[1], on=[*keys, *analysis.PAIR], suffixes=(" A", " B"))
    axis = (analysis.repeated(pairs) or ["seed"])[0]
    lines = []
    for name, group in pairs.groupby(keys, sort=False):
        row = names or " / ".join(map(str, name if sides[0]["data"].nunique() > 1 else name[1:]))
        for merit, title in (("average_accuracy", "accuracy"), ("forgetting", "forgetting")):
            known = group.dropna(subset=[f"{merit} A", f"{merit} B"])
            if known.empty:
                continue
            apart = (known[f"{merit} B"] - known[f"{merit} A"]).groupby(known[axis]).mean().to_numpy()
            found = interval(apart)
            means = [float(known[f"{merit} {side}"].mean()) for side in "AB"]
            lines.append((row, title, *means, found.mean, found.half, len(known), p_value(apart)))
    columns = ["row", "figure", "A", "B", "B - A", f"± {analysis.AXES[axis]}", "pairs", "p"]
    frame = pd.DataFrame(lines, columns=columns)
    return frame.assign(p=holm(frame["p"].tolist()))


def settings_table(lines: Sequence[tuple[str, str, str]]) -> Table:
    """For the terminal."""
    table = Table(title="settings that differ", title_justify="left")
    for name in ("setting", "A", "B"):
        table.add_column(name, overflow="fold")
    for line in lines:
        table.add_row(*line)
    return table


def results_table(frame: "pd.DataFrame") -> Table:
    """For the terminal."""
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
