"""The table of a run in the terminal, and the same numbers as JSON."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Table

from dua_lightning.report.reduce import COST_FORMATS, Reduced, adapting, cost_medians, gains, over_seeds, percentiles
from dua_lightning.store.files import write_text

USERS_SHOWN = 5
"""More users than this get no columns of their own in the terminal."""


@dataclass(frozen=True)
class UserCost:
    """The cost of a user on the machine of a run.

    Args:
        draws: The number of draws that were computed, not taken from the store.
        seconds: A worker's seconds for each.
    """

    draws: int
    seconds: float


def write_summary(reduced: Reduced, costs: pd.DataFrame, cost: UserCost | None, path: Path) -> None:
    """Write the rows as JSON; a figure that is not defined is null.

    Few users have a figure each; many have percentiles, and the cost of a user stands behind the rows.

    Args:
        reduced: The reduced records.
        costs: A line for each `CostRecord`.
        cost: The cost of a user, if any was computed.
        path: The file.

    Raises:
        InputError: The file cannot be written.
    """
    draws = reduced.draws
    names = ["data", "model", "method", "importance", "adapt"]
    merits, spent = over_seeds(draws).to_dict("index"), adapting(draws, costs).to_dict()
    summary: dict[str, Any] = {}
    for row, part in draws.groupby("row", sort=False):
        found = summary[str(row)] = {**part.iloc[0][names], **merits[row]}
        if reduced.many:
            found |= {"percentiles": percentiles(part).iloc[0].to_dict(), "draws": len(part)}
            found["adapting_seconds"] = spent.get(row, math.nan)
        else:
            users = over_seeds(part, ("user",))[["average_accuracy", "average_accuracy_std"]]
            found["users"] = users.set_axis(["mean", "std"], axis="columns").to_dict("index")
        found["seeds"] = part.groupby("seed")["average_accuracy"].mean().to_dict()
    if reduced.many:
        summary["cost_per_user"] = asdict(cost) if cost else None
    write_text(path, json.dumps(_without_nan(summary), indent=2) + "\n")


def table(reduced: Reduced, title: str, costs: pd.DataFrame | None = None, cost: UserCost | None = None) -> Table:
    """Make the table for the terminal: each row's figures of merit, and its users or, where they are many, percentiles.

    Args:
        reduced: The reduced records.
        title: The title.
        costs: A line for each `CostRecord`.
        cost: The cost of a user, if any was computed.

    Returns:
        The table.
    """
    draws = reduced.draws
    users, seeds = draws["user"].unique(), draws["seed"].nunique()
    spread = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
    notes = [f"percent, {spread}, averaged over {len(users):,} users; forgetting in points, lower is better"]
    notes += [f"{name}, paired: {shown(*line)}" for name, *line in gains(draws).itertuples(name=None)]
    more = pd.DataFrame(index=draws["row"].unique())
    if reduced.many:
        notes.append("p5: 5 % of users, draws and seeds have less accuracy")
        more = percentiles(draws)
        if costs is not None and len(spent := adapting(draws, costs)):
            more["adapting (ms)"] = 1e3 * spent
    elif len(users) <= USERS_SHOWN:
        more = over_seeds(draws, ("row", "user"))["average_accuracy"].unstack(sort=False)[users]
    if cost is not None and reduced.many:
        notes.append(f"cost per user: {1e3 * cost.seconds:.1f} ms of a worker for all rows, mean of {cost.draws:,}")
    result = Table(title=title, caption="\n".join(notes), caption_justify="left", title_justify="left")
    result.add_column("method", no_wrap=True)
    lines = [
        [
            shown(accuracy, accuracy_std),
            shown(lost, lost_std),
            *("" if math.isnan(v) else f"{v:.2f}" for v in more.loc[name]),
        ]
        for name, accuracy, accuracy_std, lost, lost_std in over_seeds(draws).itertuples(name=None)
    ]
    for column, cells in zip(("average accuracy", "forgetting", *more), zip(*lines, strict=True), strict=True):
        # A narrow table wraps its heading, and cuts no number.
        result.add_column(column, justify="right", min_width=max(map(len, cells)))
    for name, line in zip(over_seeds(draws).index, lines, strict=True):
        result.add_row(name, *line)
    return result


def costs(records: pd.DataFrame) -> Table:
    """Make the table of the costs of adapting one task's state on a device: medians over rows, users and tasks.

    Args:
        records: A line for each `CostRecord`.

    Returns:
        The table.
    """
    middle = cost_medians(records)
    result = Table(title="cost of adapting one task on the device, medians", title_justify="left")
    for column in map(str, middle):
        number = column in COST_FORMATS
        result.add_column(column, justify="right" if number else "left", no_wrap=not number)
    for line in middle.to_dict("records"):
        result.add_row(*(format(value, COST_FORMATS.get(str(column), "")) for column, value in line.items()))
    return result


def shown(mean: float, std: float) -> str:
    """Write a mean and its standard deviation for people.

    Args:
        mean: The mean.
        std: The standard deviation; NaN for none.

    Returns:
        The text.

    >>> shown(81.234, 0.5), shown(81.234, math.nan), shown(math.nan, math.nan)
    ('81.23 ± 0.50', '81.23', 'n/a')
    """
    if math.isnan(mean):
        return "n/a"
    return f"{mean:.2f}" + ("" if math.isnan(std) else f" ± {std:.2f}")


def _without_nan(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
