"""The results of many users: how accuracy spreads over them, read from the records in one pass, user after user."""

import csv
import json
import math
from array import array
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from rich.table import Table

from dua_lightning.metrics import average_accuracy, forgetting, forgetting_released
from dua_lightning.report.figures import COLOURS
from dua_lightning.store.files import replacing, write_text

MANY = 100
"""More users than this are shown by the spread over them, and none by name."""
PERCENTILES = (5, 25, 50, 75, 95)
STYLES = ("-", "--", "-.", ":")
"""Lines are told apart by style as well as by colour."""

Line = dict[str, str]


@dataclass
class Spread:
    """One row of the table over many users, one number for each draw: `accuracy` in percent, `forgetting` in points.

    `adapting`: seconds that the device spent on adaptation, for all tasks of a draw; empty for rows without.
    """

    accuracy: "array[float]" = field(default_factory=lambda: array("d"))
    forgetting: "array[float]" = field(default_factory=lambda: array("d"))
    adapting: "array[float]" = field(default_factory=lambda: array("d"))

    def percentiles(self) -> dict[str, float]:
        """Accuracy below which that many percent of the draws lie."""
        return {f"p{p}": float(v) for p, v in zip(PERCENTILES, np.percentile(self.accuracy, PERCENTILES), strict=True)}


@dataclass(frozen=True)
class Cost:
    """What a user costs: the draws that were computed, not taken from the store, and seconds of a worker for each."""

    draws: int
    seconds: float


def many(path: Path) -> bool:
    """Whether the records at `path` are of more than `MANY` users."""
    users: set[str] = set()
    for line in _lines(path):
        users.add(line["user"])
        if len(users) > MANY:
            return True
    return False


def read(folder: Path) -> dict[str, Spread]:
    """The rows of the records in `folder` by name, with what adaptation cost where `costs.csv` says it.

    The name is the label, preceded by data, model and fidelity where the records hold several of them.
    """
    found: dict[tuple[str, ...], Spread] = {}
    for key, lines in groupby(_lines(folder / "records.csv"), key=_draw):
        entries = [(int(line["after"]), int(line["on"]), float(line["accuracy"])) for line in lines]
        tasks = max(on for _, on, _ in entries)
        R = np.full((tasks, tasks), np.nan)
        for after, on, accuracy in entries:
            R[after - 1, on - 1] = accuracy
        spread = found.setdefault(key[:4], Spread())
        spread.accuracy.append(average_accuracy(R))
        spread.forgetting.append((forgetting_released if key[3] == "released" else forgetting)(R))
    if (folder / "costs.csv").exists():
        of = {key[:3]: spread for key, spread in found.items()}
        for key, lines in groupby(_lines(folder / "costs.csv"), key=_draw):
            if key[:3] in of:
                of[key[:3]].adapting.append(sum(float(line["seconds"]) for line in lines))
    several = [place for place in (1, 2, 3) if len({key[place] for key in found}) > 1]
    return {" / ".join([*(key[place] for place in several), key[0]]): spread for key, spread in found.items()}


def _lines(path: Path) -> Iterator[Line]:
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def _draw(line: Line) -> tuple[str, ...]:
    row = line["label"], line["data"], line["model"], line.get("fidelity", "")
    return *row, line["user"], line["iteration"], line["seed"]


def write_summary(rows: dict[str, Spread], cost: Cost | None, path: Path) -> None:
    """Write the rows as JSON, and what a user cost where something was computed; what is not defined is null."""
    summary = {
        name: {
            "average_accuracy": float(np.mean(row.accuracy)),
            "percentiles": row.percentiles(),
            "forgetting": _or_none(float(np.mean(row.forgetting))),
            "draws": len(row.accuracy),
            "adapting_seconds": _or_none(float(np.mean(row.adapting)) if row.adapting else math.nan),
        }
        for name, row in rows.items()
    }
    write_text(path, json.dumps({**summary, "cost_per_user": asdict(cost) if cost else None}, indent=2) + "\n")


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def table(rows: dict[str, Spread], cost: Cost | None, title: str) -> Table:
    """The table for the terminal."""
    draws = max(len(row.accuracy) for row in rows.values())
    notes = [
        f"average accuracy in percent over {draws:,} users, draws and seeds, p5: 5 % of them have less; forgetting in "
        "points, lower is better"
    ]
    if cost is not None:
        notes.append(f"cost per user: {1e3 * cost.seconds:.1f} ms of a worker for all rows, mean of {cost.draws:,}")
    result = Table(title=title, caption="\n".join(notes), caption_justify="left", title_justify="left")
    result.add_column("method", no_wrap=True)
    adapting = any(row.adapting for row in rows.values())
    names = ["mean", *(f"p{p}" for p in PERCENTILES), "forgetting", *(["adapting (ms)"] if adapting else [])]
    for column in names:
        result.add_column(column, justify="right")
    for name, row in rows.items():
        values = [float(np.mean(row.accuracy)), *row.percentiles().values(), float(np.mean(row.forgetting))]
        spent = [f"{1e3 * np.mean(row.adapting):.1f}" if row.adapting else ""] if adapting else []
        result.add_row(name, *("n/a" if math.isnan(value) else f"{value:.2f}" for value in values), *spent)
    return result


def draw(rows: dict[str, Spread], path: Path) -> Path:
    """Save the share of users that have at most some accuracy, a line for each row."""
    figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
    levels = np.linspace(0, 100, 201)
    for k, (name, row) in enumerate(rows.items()):
        style = STYLES[k // len(COLOURS) % len(STYLES)]
        axes.plot(np.percentile(row.accuracy, levels), levels, style, color=COLOURS[k % len(COLOURS)], label=name)
    axes.set_xlabel("average accuracy after the last task (%)")
    axes.set_ylabel("users with at most this (%)")
    axes.set_title("How unequally the users are served", loc="left")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=130)
    plt.close(figure)
    return path
