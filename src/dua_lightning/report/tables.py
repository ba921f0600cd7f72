"""The table of a run in the terminal, and the same numbers as JSON."""

import json
import math
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from dua_lightning.report.document import Answer
from dua_lightning.report.reduce import (
    COST_FORMATS,
    MERGE_FORMATS,
    MERITS,
    Reduced,
    adapting,
    cost_medians,
    gains,
    merge_medians,
    over_seeds,
    percentiles,
)
from dua_lightning.report.terminal import Column, Sheet
from dua_lightning.store.files import write_text

USERS_SHOWN = 5
"""More users than this have no columns in the terminal."""


@dataclass(frozen=True)
class UserCost:
    """The cost of a user on the machine of a run.

    Args:
        draws: The number of draws that were computed, not taken from the store.
        seconds: A worker's seconds for each.
    """

    draws: int
    seconds: float


def write_summary(
    reduced: Reduced, costs: pd.DataFrame, cost: UserCost | None, path: Path, answers: Sequence[Answer] = ()
) -> None:
    """Write the rows as JSON; a figure that is not defined is null.

    Few users have a figure each; many have percentiles, and the cost of a user stands behind the rows. The verdict
    comes last.

    Args:
        reduced: The reduced records.
        costs: A line for each `CostRecord`.
        cost: The cost of a user, if any was computed.
        path: The file.
        answers: The verdict.

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
    if answers:
        # The commands that come next name this run's folder.
        summary["verdict"] = {answer.question: answer.text for answer in answers}
    write_text(path, json.dumps(_without_nan(summary), indent=2) + "\n")


def table(reduced: Reduced, title: str, costs: pd.DataFrame | None = None, cost: UserCost | None = None) -> Sheet:
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
    else:
        notes.append("each user's accuracy is in summary.json")
    if cost is not None and reduced.many:
        notes.append(f"cost per user: {1e3 * cost.seconds:.1f} ms of a worker for all rows, mean of {cost.draws:,}")
    merits = over_seeds(draws)
    columns = [Column("method", list(map(str, merits.index)), number=False)]
    for name in MERITS:
        cells = [shown(*pair) for pair in zip(merits[name], merits[f"{name}_std"], strict=True)]
        columns.append(Column(name.replace("_", " "), cells))
    for heading, values in more.loc[merits.index].items():
        columns.append(Column(str(heading), ["" if math.isnan(value) else f"{value:.2f}" for value in values]))
    return Sheet(title, columns, "\n".join(notes))


def costs(records: pd.DataFrame) -> Sheet:
    """Make the table of the costs of adapting one task's state on a device: medians over rows, users and tasks.

    Args:
        records: A line for each `CostRecord`.

    Returns:
        The table.
    """
    columns = [
        Column(str(name), [format(value, COST_FORMATS.get(str(name), "")) for value in values], name in COST_FORMATS)
        for name, values in cost_medians(records).items()
    ]
    return Sheet("cost of adapting one task on the device, medians", columns)


def released(records: pd.DataFrame) -> Sheet:
    """Make the table of what users sent through releases: for each row the mean of a task's bytes, and the guarantee.

    Args:
        records: A line for each `ReleaseRecord`.

    Returns:
        The table. A guarantee is that of one image; `none` stands where there is none.
    """
    means = records.groupby("label", sort=False)[["plain", "sent", "epsilon", "delta"]].mean()
    columns = {
        "row": list(means.index),
        "measured (bytes)": [f"{value:,.0f}" for value in means["plain"]],
        "sent (bytes)": [f"{value:,.0f}" for value in means["sent"]],
        "epsilon": ["none" if math.isnan(value) else f"{value:.2f}" for value in means["epsilon"]],
        "delta": ["" if math.isnan(value) else f"{value:g}" for value in means["delta"]],
    }
    found = [Column(name, texts, name != "row") for name, texts in columns.items()]
    return Sheet("priors that users sent through a release, for each task", found)


def merged(records: pd.DataFrame) -> Sheet:
    """Make the table of what merging all experts costs a user, for each row.

    Args:
        records: A line for each `MergeRecord`.

    Returns:
        The table: medians over users, draws and seeds.
    """
    columns = [
        Column(str(name), [format(value, MERGE_FORMATS.get(str(name), "")) for value in values], name in MERGE_FORMATS)
        for name, values in merge_medians(records).items()
    ]
    return Sheet("what merging costs one user, medians", columns)


def answered(answers: Sequence[Answer], width: int) -> str:
    """Write the verdict for the terminal.

    Args:
        answers: The answers.
        width: The width of the terminal; commands are never broken.

    Returns:
        The lines: each question, and its answer below.
    """
    lines = []
    for answer in answers:
        # A number and its percent stay in one line.
        text = answer.text.replace(" %", "\N{NO-BREAK SPACE}%")
        wrapped = textwrap.wrap(text, width, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
        lines += [answer.question, *(line.replace("\N{NO-BREAK SPACE}%", " %") for line in wrapped)]
        lines += [f"    {command}" for command in answer.commands]
    return "\n".join(lines)


def shown(mean: float, std: float) -> str:
    """Write a mean and its standard deviation for people.

    Args:
        mean: The mean.
        std: The standard deviation; NaN for none.

    Returns:
        The text.

    Examples:
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
