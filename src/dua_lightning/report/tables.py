"""The table of a run: average accuracy and forgetting of every row, with their spread over seeds."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from rich.table import Table

from dua_lightning.metrics import average_accuracy, forgetting, forgetting_released
from dua_lightning.report.records import matrices
from dua_lightning.store.files import write_text

USERS_SHOWN = 5
"""More users than this get no columns of their own in the terminal."""


@dataclass(frozen=True)
class Figure:
    """Mean over seeds and its standard deviation (n - 1) over seeds; NaN where it is not defined."""

    mean: float
    std: float

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "n/a"
        return f"{self.mean:.2f}" + ("" if math.isnan(self.std) else f" ± {self.std:.2f}")


@dataclass(frozen=True)
class Row:
    """One row of the table. Accuracy in percent, forgetting in percentage points, averaged over users and iterations.

    `users`: each user's average accuracy. `seeds`: the average accuracy over users for each seed.
    """

    data: str
    model: str
    method: str
    importance: str
    adapt: str
    accuracy: Figure
    forgetting: Figure
    users: dict[str, Figure]
    seeds: dict[int, float]


def merits(records: pd.DataFrame) -> pd.DataFrame:
    """Average accuracy and forgetting of each row, user, iteration and seed: one line for each accuracy matrix.

    The column `row` is the label, preceded by data, model and fidelity where the records hold several of them.
    Forgetting is averaged over the earlier tasks, or as the release does where the records are of its behaviour.
    """
    frame = pd.DataFrame(
        {
            **keys,
            "average_accuracy": average_accuracy(R),
            "forgetting": (forgetting_released if keys["fidelity"] == "released" else forgetting)(R),
        }
        for keys, R in matrices(records)
    )
    several = [name for name in ("data", "model", "fidelity") if frame[name].nunique() > 1]
    return frame.assign(row=frame[[*several, "label"]].agg(" / ".join, axis=1))


def rows(records: pd.DataFrame) -> dict[str, Row]:
    """The rows of the table by name, in the order of the records."""
    found: dict[str, Row] = {}
    for name, group in merits(records).groupby("row", sort=False):
        first = group.iloc[0]
        found[str(name)] = Row(
            data=str(first["data"]),
            model=str(first["model"]),
            method=str(first["method"]),
            importance=str(first["importance"]),
            adapt=str(first["adapt"]),
            accuracy=_over_seeds(group, "average_accuracy"),
            forgetting=_over_seeds(group, "forgetting"),
            users={
                str(user): _over_seeds(of_user, "average_accuracy")
                for user, of_user in group.groupby("user", sort=False)
            },
            seeds={int(seed): float(a) for seed, a in group.groupby("seed")["average_accuracy"].mean().items()},  # type: ignore[call-overload]
        )
    return found


def mean_matrices(records: pd.DataFrame) -> dict[str, np.ndarray]:
    """Each row's accuracy matrix R `(N, N)` in percent, averaged over users, iterations and seeds."""
    stacks: dict[str, list[np.ndarray]] = {}
    for name, (_, R) in zip(merits(records)["row"], matrices(records), strict=True):
        stacks.setdefault(name, []).append(R)
    return {name: np.mean(stack, axis=0) for name, stack in stacks.items()}


def paired(records: pd.DataFrame, first: str, second: str) -> Figure:
    """Average accuracy of row `first` minus row `second`, in points, paired by seed, user and iteration."""
    frame = merits(records)
    keys = ["seed", "user", "iteration"]
    a, b = (frame[frame["row"] == name].set_index(keys)["average_accuracy"] for name in (first, second))
    return _over_seeds((a - b).rename("difference").reset_index(), "difference")


def differences(records: pd.DataFrame) -> dict[str, Figure]:
    """What a user's own prior changes: each RACL row minus its IMM row, where the records hold both."""
    names = list(rows(records))
    pairs = [(name, name.replace("-RACL", "-IMM")) for name in names if "-RACL" in name]
    return {f"{a} minus {b}": paired(records, a, b) for a, b in pairs if b in names}


def write_summary(records: pd.DataFrame, path: Path) -> None:
    """Write the rows and the paired differences as JSON; what is not defined is null."""
    summary = {
        name: {
            **{key: getattr(row, key) for key in ("data", "model", "method", "importance", "adapt")},
            "average_accuracy": row.accuracy.mean,
            "average_accuracy_std": row.accuracy.std,
            "forgetting": row.forgetting.mean,
            "forgetting_std": row.forgetting.std,
            "users": {user: asdict(figure) for user, figure in row.users.items()},
            "seeds": row.seeds,
        }
        for name, row in rows(records).items()
    }
    write_text(path, json.dumps(_without_nan(summary), indent=2) + "\n")


def table(records: pd.DataFrame, title: str) -> Table:
    """The table for the terminal."""
    found = rows(records)
    users = list(dict.fromkeys(user for row in found.values() for user in row.users))
    seeds = records["seed"].nunique()
    spread = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
    notes = [f"percent, {spread}, averaged over {len(users)} users; forgetting in points, lower is better"]
    notes += [f"{name}, paired: {figure}" for name, figure in differences(records).items()]
    shown = users if len(users) <= USERS_SHOWN else []
    result = Table(title=title, caption="\n".join(notes), caption_justify="left", title_justify="left")
    result.add_column("method", no_wrap=True)
    for column in ("average accuracy", "forgetting", *shown):
        result.add_column(column, justify="right")
    for name, row in found.items():
        means = [f"{row.users[user].mean:.2f}" if user in row.users else "" for user in shown]
        result.add_row(name, str(row.accuracy), str(row.forgetting), *means)
    return result


def costs(records: pd.DataFrame) -> Table:
    """What adapting one task's state costs a device: medians over rows, users and tasks."""
    middle = cost_medians(records)
    result = Table(title="cost of adapting one task on the device, medians", title_justify="left")
    for column in map(str, middle):
        result.add_column(column, justify="left" if column == "adaptation" else "right", no_wrap=column == "adaptation")
    for name, trainable, kept, seconds, peak in middle.itertuples(index=False):
        result.add_row(str(name), f"{trainable:,.0f}", f"{kept:,.1f}", f"{seconds:.3f}", f"{peak:,.1f}")
    return result


def cost_medians(records: pd.DataFrame) -> pd.DataFrame:
    """What each adaptation of one task's state costs a device: medians over rows, users and tasks."""
    middle = records.groupby("adapt", sort=False)[["trainable", "bytes", "seconds", "peak_bytes"]].median()
    kibibytes, mebibytes = middle["bytes"] / 2**10, middle["peak_bytes"] / 2**20
    return pd.DataFrame(
        {
            "adaptation": middle.index,
            "trained parameters": middle["trainable"].to_numpy(),
            "kept (KiB)": kibibytes.to_numpy(),
            "seconds": middle["seconds"].to_numpy(),
            "peak memory (MiB)": mebibytes.to_numpy(),
        }
    )


def _over_seeds(frame: pd.DataFrame, column: str) -> Figure:
    values = frame.groupby("seed")[column].mean().to_numpy()
    return Figure(float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else math.nan)


def _without_nan(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and np.isnan(value) else value
