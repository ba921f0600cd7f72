"""The comparison of runs with published figures.

It is called as `python -m dua_lightning.report.published EXPECTED.csv RUN...`.

`EXPECTED.csv` has the columns `data, model, method, adapt, accuracy, forgetting` (percent and points, empty where not
published), `RUN` is the folder of a run or of a sweep. Published forgetting is divided by N, as the authors' code does,
and so is the measured one here.
"""

import math
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from dua_lightning.errors import InputError
from dua_lightning.report import records
from dua_lightning.report.reduce import reduce
from dua_lightning.report.terminal import Column, Sheet, Terminal

_PACKAGE = Path(__file__).resolve().parents[1]
PUBLISHED = sorted((_PACKAGE / "published").glob("*.csv")) or sorted(
    _PACKAGE.parents[1].glob("experiments/table*/expected.csv")
)
"""The files of the paper's tables: a wheel carries them inside the package; a checkout has them in `experiments/`."""

KEYS = ["data", "model", "method", "adapt"]
FIGURES = ["accuracy", "forgetting"]
"""Columns that name a published row, and those of its figures."""


def compare(draws: pd.DataFrame, expected: pd.DataFrame) -> pd.DataFrame:
    """Compare published figures with measured ones, which are means over seeds, users and iterations.

    Args:
        draws: The reduced records, as `reduce.Reduced` has them.
        expected: The published figures.

    Returns:
        One line for each published row, and for each `label` where several rows are it: accuracy and forgetting,
        published and measured (NaN where nothing was run); `gap` is measured minus published accuracy, in points.
    """
    measured = draws.assign(method=draws["label"].str.split(" + ", regex=False).str[0])
    means = measured.groupby([*KEYS, "label"], as_index=False)[["average_accuracy", "forgetting_released"]].mean()
    names = {"average_accuracy": "measured", "forgetting_released": "measured_forgetting"}
    joined = expected.merge(means.rename(columns=names), on=KEYS, how="left")
    return joined.assign(gap=joined["measured"] - joined["accuracy"])


def published() -> pd.DataFrame:
    """Read the paper's tables 2 to 4.

    Returns:
        The columns of `EXPECTED.csv`, and `table`.
    """
    return pd.concat(map(_published, PUBLISHED), ignore_index=True)


def tables(compared: pd.DataFrame) -> Iterator[Sheet]:
    """Make the comparison's tables for the terminal, accuracy with forgetting in brackets, as the paper prints them.

    Args:
        compared: The lines of `compare`.

    Yields:
        A table for each benchmark and network.
    """
    for (data, model), group in compared.groupby(["data", "model"], sort=False):
        adapted = group["adapt"] != "none"
        columns = {
            "row": group["label"].fillna(group["method"].where(~adapted, group["method"] + " + " + group["adapt"])),
            "published": map(_both, group["accuracy"], group["forgetting"]),
            "measured": map(_both, group["measured"], group["measured_forgetting"]),
            "gap": ("" if math.isnan(gap) else f"{gap:+.2f}" for gap in group["gap"]),
        }
        yield Sheet(f"{data}, {model}", [Column(name, list(cells), name != "row") for name, cells in columns.items()])


def main(arguments: list[str]) -> int:
    """Print the comparison.

    Args:
        arguments: The file of published figures, then the folders of runs.

    Returns:
        The exit status: 0, or 2 for input that cannot be used.
    """
    console = Terminal()
    if len(arguments) < 2:
        console.print("usage: python -m dua_lightning.report.published EXPECTED.csv RUN...")
        return 2
    try:
        expected = _published(Path(arguments[0]))
        files = [Path(run) / "records.csv" for run in arguments[1:]]
        found = reduce(frame for path in files for frame in records.chunks(path))
    except InputError as error:
        Terminal(stderr=True).print(f"error: {error}")
        return 2
    for table in tables(compare(found.draws, expected)):
        console.print(table)
    console.print("average accuracy in percent (forgetting in points, divided by N as published)")
    return 0


def _published(path: Path) -> pd.DataFrame:
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        if missing := [name for name in (*KEYS, *FIGURES) if name not in frame]:
            raise ValueError(f"it has no column {missing[0]}")
        return frame.assign(**{name: pd.to_numeric(frame[name]) for name in FIGURES})
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} is not a table of published figures ({' '.join(str(error).split())}); give one with the columns "
            f"{', '.join((*KEYS, *FIGURES))}"
        ) from error


def _both(accuracy: float, forgetting: float) -> str:
    if math.isnan(accuracy):
        return ""
    return f"{accuracy:.2f} ({'n/a' if math.isnan(forgetting) else f'{forgetting:.2f}'})"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
