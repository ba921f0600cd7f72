"""The privacy card: what a run's users sent of their own, what it gives away, and what it is worth.

It is about rows that merge by the user's own prior; the others send nothing. Differences are paired by seed, user and
draw, with 95 % t intervals over users; see `pairs`.
"""

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from dua_lightning.errors import InputError
from dua_lightning.report.document import Answer
from dua_lightning.report.labels import setting
from dua_lightning.report.ledger import NULLS
from dua_lightning.report.pairs import SURE, Difference, Rows, kept, points
from dua_lightning.report.records import PLAIN
from dua_lightning.report.runs import Run, Study

FILE, SETTINGS = "privacy.csv", "settings.json"
"""The card in a run's folder, and the file there that has the settings of each row."""
KEYS = ["data", "model", "row"]
"""The columns that name a line."""
TRIED: dict[str, Any] = {
    "sent": math.nan,
    "images": math.nan,
    "users": math.nan,
    "recovered": math.nan,
    "recovered CI": math.nan,
    "best": math.nan,
    "control": math.nan,
    "attack": "not run",
}
"""Columns that take the network and pictures, which `dua privacy` fills, and their values before."""
UNREADABLE = {
    "device": "nothing is sent, since the device merges",
    "encrypted": "the server cannot read what is sent, if it follows the protocol",
}
"""The reason why there is nothing to attack, by the place of the merge."""
CLOSE = 0.9
"""The correlation from which on a picture counts as recovered."""
NOTE = (
    "sent: bytes of numbers for one task of one user; plain: those of one number for each weight. recovered: percent "
    f"of the pictures of simulated users that an attack gets back with a correlation above {CLOSE}; control: the same "
    "of pictures that they never had. gain: points over the mean merge, which needs no prior; over noise: over a prior "
    "that was measured on noise; cost: points less than the same importance by weight without a release. In brackets "
    "95 % intervals over users."
)
"""The meaning of the card's columns."""
NOBODY = "Nothing of users was sent: no row merges by a user's own prior."
"""The card of a run without such a row."""


def card(study: Study) -> pd.DataFrame:
    """Make the card of some runs.

    Args:
        study: The runs.

    Returns:
        A line for each row with the user's own prior, none where there is no such row; priors that know nothing of the
        user's pictures are controls, and have none. `plain` and `sent` are bytes of numbers for one task of one user:
        those of one number for each weight, and those that were sent. `gain` is over the mean merge of the same
        statistics and adaptation, for which nobody sends anything, `over noise` over a prior that was measured on
        noise, and `cost` is what the row has less than the same importance by weight without a release. All three are
        points, with half their 95 % t interval over users. The columns of `TRIED` are read from the files that
        `dua privacy` wrote.

    Raises:
        InputError: A file of a run cannot be read.
    """
    made = {label: choices for run in study.runs for label, choices in _choices(run)}
    released = {label: line for run in study.runs for label, line in _released(run)}
    elsewhere = {label: line for run in study.runs for label, line in _elsewhere(run)}
    tried = {key: line for run in study.runs for key, line in _tried(run)}
    lines = []
    for (data, model), draws in kept(study.reduced.draws).groupby(["data", "model"], sort=False):
        rows = Rows(draws)
        sizes = [run.facts.prior_bytes for run in study.runs if run.facts and _is_on(run, data, model)]
        for label, row in rows.of.items():
            if row["prior"] != "user" or row["importance"] in NULLS:
                continue
            line: dict[str, Any] = {"data": str(data), "model": str(model), "row": label, **_made(made, rows, label)}
            line |= {"plain": sizes[0] if sizes else math.nan, "epsilon": math.nan, "delta": math.nan, **TRIED}
            if (line["level"], line["release"]) == ("weight", "none"):
                line["sent"] = line["plain"]
            line |= released.get(label, {}) | tried.get((str(data), str(model), label), {}) | elsewhere.get(label, {})
            line["accuracy"] = rows.accuracy(label)
            line |= _difference(rows, "gain", label, _mean(rows, label))
            line |= _difference(rows, "over noise", label, _noise(rows, label))
            line |= _difference(rows, "cost", _whole(rows, made, label), label)
            lines.append(line)
    return pd.DataFrame(lines)


def answers(found: pd.DataFrame) -> tuple[Answer, ...]:
    """Say the card to somebody who is no expert.

    Args:
        found: The lines of `card`.

    Returns:
        Some sentences on each row.
    """
    return tuple(Answer(line["row"], _said(line)) for line in found.to_dict("records"))


def _said(line: Mapping[Any, Any]) -> str:
    size = "a prior" if math.isnan(line["sent"]) else f"{line['sent']:,.0f} bytes"
    sending = "Sending it"
    if line["where"] == "device":
        said = ["Nothing that is computed from a user's pictures is sent: the device merges by itself"]
        sending = "The user's prior"
    elif line["where"] == "encrypted":
        said = [
            f"Each user sends {size} for each task, encrypted with a key that stays on the device: the server cannot "
            "read them, if it follows the protocol"
        ]
    else:
        said = [f"Each user sends {size} for each task, computed from their pictures", *_given_away(line)]
    if not math.isnan(line["gain"]):
        worth = f"{points(line['gain'])}{_interval(line, 'gain')}"
        said.append(f"{sending} changed the accuracy by {worth} against a merge for which nobody sends anything")
    if not math.isnan(line["over noise"]):
        worth = f"{points(line['over noise'])}{_interval(line, 'over noise')}"
        said.append(f"Against numbers that were measured on noise it changed it by {worth}")
    return ". ".join(said) + "."


def _given_away(line: Mapping[Any, Any]) -> Iterator[str]:
    if math.isnan(line["recovered"]):
        yield f"How much of the pictures can be got back from it is not known here: {line['attack']}"
    else:
        yield (
            f"An attack of whoever receives it gets back about {line['recovered']:.0f} of 100 pictures so that one "
            f"would know them (tried on {line['users']:.0f} simulated users of {line['images']:.0f} pictures each; "
            f"{line['control']:.0f} of 100 for pictures that they never had)"
        )
    if not math.isfinite(line["epsilon"]):
        yield "No mathematical guarantee protects them, and a better attack may get more"
    else:
        yield (
            f"Differential privacy bounds what anybody can learn of one picture, with epsilon {line['epsilon']:.3g} "
            f"and delta {line['delta']:.1g} for each task: the smaller, the safer, and above 10 it promises little"
        )


def guarantee(line: Mapping[Any, Any]) -> str:
    """Write the guarantee of a line for a table.

    Args:
        line: The values of a line by column.

    Returns:
        Epsilon and delta, or `none` where epsilon is infinite or not there.
    """
    return f"({line['epsilon']:.3g}, {line['delta']:.1g})" if math.isfinite(line["epsilon"]) else "none"


def _interval(line: Mapping[Any, Any], name: str) -> str:
    mean, half = line[name], line[f"{name} CI"]
    if math.isnan(half):
        return ""
    unclear = "" if abs(mean) > half else ", which may be nothing"
    return f" ({SURE} {mean - half:+.1f} to {mean + half:+.1f}{unclear})"


def _is_on(run: Run, data: object, model: object) -> bool:
    return (run.benchmark, str(run.settings.get("model.name"))) == (data, model)


def _choices(run: Run) -> Iterator[tuple[str, dict[str, str]]]:
    """The importance, level and release of each row, by its label; nothing of runs that have not written them down."""
    path = run.folder / SETTINGS
    if run.facts is None or not path.exists():
        return
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))[0]["rows"]
        for label, row in zip(run.facts.rows, rows, strict=False):
            of, release = row["importance"]["node"], row.get("release", {"node": {"name": "none"}})["node"]
            averaged = of["name"] == "averaged"
            steps = [release, *release.get("steps", {}).values()]
            levels = [step["level"] for step in steps if "level" in step]
            level = next(iter(levels), of["level"] if averaged else "weight")
            yield (
                label,
                {
                    "importance": str(of["of"]["name"] if averaged else of["name"]),
                    "level": str(level),
                    "release": "none" if release["name"] == "none" else str(release["label"]),
                    "where": str(row.get("where", "server")),
                },
            )
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{path} cannot be read ({' '.join(str(error).split())}); run again") from error


def _made(made: Mapping[str, dict[str, str]], rows: Rows, label: str) -> dict[str, str]:
    """The choices of a row; of a run that has not written them down, what its records say."""
    importance = str(rows.of[label]["importance"])
    unknown = {"importance": importance, "level": "weight", "release": "none", "where": "server"}
    return made.get(label, unknown)


def _released(run: Run) -> Iterator[tuple[str, dict[str, float]]]:
    """The bytes of a prior that went through a row's release, in the median, and the weakest of its guarantees."""
    for label, lines in run.releases[run.releases["images"] > 0].groupby("label", sort=False):
        yield (
            str(label),
            {
                "sent": float(lines["sent"].median()),
                "epsilon": float(lines["epsilon"].max(skipna=False)),
                "delta": float(lines["delta"].max(skipna=False)),
            },
        )


def _elsewhere(run: Run) -> Iterator[tuple[str, dict[str, Any]]]:
    """The bytes that a user sends for a task where the server merges no priors, in the median, and why that is safe."""
    merges = run.merges[run.merges["where"] != "server"]
    for (label, where), lines in merges.groupby(["label", "where"], sort=False, observed=True):
        tasks = len(run.facts.tasks) if run.facts else math.nan
        yield str(label), {"sent": float(lines["up"].median()) / tasks, "attack": UNREADABLE[str(where)]}


def _tried(run: Run) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """The columns of `TRIED` in the card that a run's folder has."""
    path = run.folder / FILE
    if not path.exists():
        return
    try:
        frame = pd.read_csv(path, **PLAIN, na_values={name: [""] for name in TRIED if name != "attack"})
        for line in frame[[*KEYS, *TRIED]].to_dict("records"):
            yield tuple(str(line[name]) for name in KEYS), {name: line[name] for name in TRIED}
    except (OSError, ValueError, LookupError) as error:
        raise InputError(f"{path} cannot be read ({' '.join(str(error).split())}); delete it") from error


def _mean(rows: Rows, label: str) -> str | None:
    """The mean merge of the same statistics and adaptation."""
    found = (other for other, row in rows.of.items() if row["method"] == "mean_imm" and row["prior"] == "none")
    return next((other for other in found if setting(other) == setting(label)), None)


def _noise(rows: Rows, label: str) -> str | None:
    """The row of a prior that was measured on noise, with the same statistics and adaptation."""
    found = (other for other, row in rows.of.items() if row["importance"] == "noise" and row["prior"] == "user")
    return next((other for other in found if setting(other) == setting(label)), None)


def _whole(rows: Rows, made: Mapping[str, dict[str, str]], label: str) -> str | None:
    """The row of the same importance by weight without a release, on the server; none for that row itself."""
    wanted = _made(made, rows, label) | {"level": "weight", "release": "none", "where": "server"}
    same = ("method", "prior", "statistics", "adapt")
    for other, row in rows.of.items():
        alike = all(row[name] == rows.of[label][name] for name in same) and setting(other) == setting(label)
        if other != label and alike and _made(made, rows, other) == wanted:
            return other
    return None


def _difference(rows: Rows, name: str, first: str | None, second: str | None) -> dict[str, float]:
    apart: Difference | None = rows.difference(first, second) if first and second else None
    return {name: apart.mean if apart else math.nan, f"{name} CI": apart.half if apart else math.nan}
