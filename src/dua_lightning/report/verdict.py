"""The verdict: what the rows of a run say of the questions that an engineer asks, in sentences made from the numbers.

Every claim about users is measured from the best that the server can do without any of their data. That is the row with
the highest mean over all users among those that use nothing of theirs. To choose the strongest of them on the users'
own evaluation halves favours the server, and so speaks against the claim. The personal row is not chosen by its
results: it is the first by a fixed order, and the others are in the tables alone.

Differences and their intervals are those of `pairs`. Rows of the authors' released behaviour are left out.
"""

import math
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dua_lightning.report.document import Answer
from dua_lightning.report.facts import Facts
from dua_lightning.report.labels import FEW, kin
from dua_lightning.report.pairs import NEAR, SURE, UNCLEAR, Difference, Rows, kept, points
from dua_lightning.report.records import MergeRecord, ReleaseRecord, table
from dua_lightning.report.runs import again
from dua_lightning.report.statistics import FEWEST, interval

NAMED = 5
"""More users than this are counted, and not named."""
SEEDS = 3
"""Fewer seeds than this say little of another training."""


def verdict(
    draws: pd.DataFrame,
    costs: pd.DataFrame,
    facts: Facts | None = None,
    given: Sequence[str] | None = None,
    folder: Path | None = None,
) -> tuple[Answer, ...]:
    """Answer the questions of an engineer by the rows of one benchmark and one network.

    Args:
        draws: The lines of `Reduced.draws`.
        costs: A line for each `CostRecord`.
        facts: The benchmark and the network, where they are known.
        given: The words of the command line that made the run, where there is one.
        folder: The run's folder, which further commands name.

    Returns:
        The answers in the order of the questions; none for fewer than two rows.
    """
    compared = kept(draws)
    if compared["label"].nunique() < 2:
        return ()
    return tuple(_answers(Rows(compared), costs, facts, given, folder))


def _answers(
    rows: Rows, costs: pd.DataFrame, facts: Facts | None, given: Sequence[str] | None, folder: Path | None
) -> Iterator[Answer]:
    personal, server = rows.personal, rows.server
    # Without batch normalisation no row can adapt by AdaBN, and most questions have no answer.
    asks = facts.batch_norm if facts else any(row["adapt"] == "adabn" for row in rows.of.values())
    missing = () if given is None or not asks else (again(given, "method=verdict"),)
    found = rows.difference(personal, server) if personal and server else None
    if personal is None or server is None or found is None:
        lacking = "uses a user's images without labels" if personal is None else "does without users' data"
        yield Answer("Does personalization help here?", f"Not asked: no row {lacking}.", missing)
        return
    yield Answer("Does personalization help here?", _helps(rows, personal, server, found))
    yield Answer("For how many users?", _count(found))
    yield Answer("How sure is that?", _sure(rows, found))
    yield Answer("Who is worse off?", _worse(found))
    yield from _statistics(rows, personal, asks, missing)
    yield from _prior(rows, missing)
    yield from _images(rows, asks, missing)
    yield from _labels(rows, personal)
    yield Answer("What does it cost on the device?", _cost(rows, personal, costs, facts, folder))
    yield from _next(rows, personal if found.word == "Yes" else server, found, given, folder)


def few(draws: pd.DataFrame) -> pd.DataFrame:
    """Compare AdaBN of a few images with AdaBN of all of them.

    Args:
        draws: The lines of `Reduced.draws` of one benchmark and one network.

    Returns:
        A line for each number of images of each task, in rising order, and a last one for all (`images` is infinite):
        `accuracy` in percent, `difference` to all images in points and `CI`, half its interval over users. There are no
        lines where no row takes a few images, or none takes all.
    """
    rows = Rows(draws[draws["fidelity"] == "paper"])
    numbers = {label: int(match[1]) for label in rows.of if (match := FEW.search(label))}
    columns = ["row", "images", "accuracy", "difference", "CI"]
    whole = next((full for label in numbers if (full := rows.kin(label, adapt="adabn"))), None)
    if whole is None:
        return pd.DataFrame(columns=columns)
    lines = [
        (label, numbers[label], rows.accuracy(label), found.mean, found.half)
        for label in sorted(numbers, key=numbers.__getitem__)
        if kin(label) == kin(whole) and (found := rows.difference(label, whole))
    ]
    return pd.DataFrame([*lines, (whole, math.inf, rows.accuracy(whole), 0.0, 0.0)], columns=columns)


def _helps(rows: Rows, personal: str, server: str, found: Difference) -> str:
    word = found.word
    says = "No, it harms" if word == "No" else word
    with_data, without = rows.wide[[personal, server]].dropna().groupby(level="user").mean().mean()
    text = (
        f"{says}: {personal} is right on {with_data:.1f} % of the images, and {server}, the best row "
        f"without users' data, on {without:.1f} %: {found}."
    )
    # Only a merge with statistics that nobody has put right leaves the server less than it can do.
    alone = [row for row in rows.of.values() if row["uses"] == "nothing" and row["statistics"] in ("server", "none")]
    if not alone and rows.of[personal]["adapt"] == "adabn":
        text += (
            " The server's best is not among the rows: a merge has wrong batch-norm statistics, and statistics=server "
            "would put them right without any user."
        )
    return text


def _count(found: Difference) -> str:
    users = found.users
    text = f"{(users > 0).sum():,} of {len(users):,} are served better, {(users < 0).sum():,} worse"
    intervals = _own(found)
    if intervals is None:
        return f"{text}; by the sign alone, as each has too few seeds and draws for an interval of its own."
    clear = [(users - intervals > 0).sum(), (users + intervals < 0).sum()]
    return f"{text}; beyond the user's own noise ({SURE} each), {clear[0]:,} better and {clear[1]:,} worse."


def _own(found: Difference) -> pd.Series | None:
    """Half the interval of each user over seeds, or over draws; `None` where neither are enough."""
    for axis in ("seed", "iteration"):
        means = found.apart.groupby(level=["user", axis], sort=False).mean().unstack(axis)
        if means.shape[1] >= FEWEST:
            return pd.Series(interval(means.to_numpy()).half, means.index)[found.users.index].fillna(0)
    return None


def _sure(rows: Rows, found: Difference) -> str:
    seeds = found.apart.groupby(level="seed").mean()
    texts = []
    if found.word == UNCLEAR:
        texts.append(f"{UNCLEAR}: {found.decide()}.")
    else:
        texts.append(f"The {SURE} says how far other users would move the mean.")
    if len(seeds) >= SEEDS:
        texts.append(f"From seed to seed the mean is {seeds.min():+.1f} to {seeds.max():+.1f} points.")
    else:
        texts.append(f"{'Two seeds' if len(seeds) > 1 else 'One seed'} cannot say how far another training would.")
    return " ".join(texts)


def _worse(found: Difference) -> str:
    users = found.users[found.users < 0].sort_values()
    if users.empty:
        return "Nobody."
    names = [f"{user} ({points:+.1f} points)" for user, points in users.head(NAMED).items()]
    more = len(users) - len(names)
    intervals = _own(found)
    text = _and([*names, f"{more:,} more"] if more else names)
    if intervals is not None and not (users + intervals[users.index] < 0).any():
        text += ", nobody beyond their own noise"
    return f"{text}."


def _statistics(rows: Rows, personal: str, asks: bool, missing: tuple[str, ...]) -> Iterator[Answer]:
    question = "Is it the user, or only the merged statistics put right?"
    merged = [label for label, row in rows.of.items() if row["statistics"] not in ("server", "none")]
    # A merge by a user's prior is nothing that the server has alone.
    server = {"adapt": "none", "uses": "nothing"}
    for label in [personal, *merged]:
        own = rows.kin(label, adapt="adabn")
        given = next(
            (found for s in ("last", "mean", "task") if (found := rows.kin(label, statistics=s, **server))), None
        )
        alone = rows.kin(label, statistics="server", **server)
        if own and given and alone and (rest := rows.difference(own, alone)) and (put := rows.difference(alone, given)):
            word = "The user" if rest.clear and rest.mean > 0 else "Only the statistics" if rest.near else UNCLEAR
            if rest.clear and rest.mean < 0:
                word = "The statistics, and the user's are worse than the server's"
            yield Answer(
                question,
                f"{word}: AdaBN betters {given} by {points(put.mean + rest.mean)}. The server's statistics alone, "
                f"statistics=server, would make it {put.mean:+.1f}; the user's own images add {rest}.",
            )
            return
    if merged and asks:
        yield Answer(question, "Not asked: it takes a merge as it is, with statistics=server, and with AdaBN.", missing)


def _prior(rows: Rows, missing: tuple[str, ...]) -> Iterator[Answer]:
    question = "Does the user's own prior add anything?"
    pairs = [
        (label, other)
        for label, row in rows.of.items()
        if row["prior"] == "user" and (other := label.replace("-RACL", "-IMM")) in rows.of and other != label
    ]
    for own, server in sorted(pairs, key=lambda pair: (rows.of[pair[0]]["adapt"] != "adabn", rows.of[pair[0]]["uses"])):
        if found := rows.difference(own, server):
            more = f"; {found.decide()}" if found.word == UNCLEAR else ""
            yield Answer(question, f"{found.word}: {own} minus {server} is {found}{more}.")
            return
    yield Answer(question, "Not asked: it takes a row of RACL, and the same of IMM.", missing)


def _images(rows: Rows, asks: bool, missing: tuple[str, ...]) -> Iterator[Answer]:
    question = "How many images does a user need?"
    found = few(rows.draws)
    lines = found[np.isfinite(found["images"].astype(float))]
    if lines.empty:
        if asks:
            yield Answer(question, "Not asked: it takes rows of adapt=adabn_few.", missing)
        return
    texts = {
        int(line["images"]): f"{points(line['difference'])} against all"
        + (
            ""
            if math.isnan(line["CI"])
            else f" ({SURE} {line['difference'] - line['CI']:+.1f} to {line['difference'] + line['CI']:+.1f})"
        )
        for line in lines.to_dict("records")
    }
    enough = lines[lines["difference"] - lines["CI"] > -NEAR]
    if len(enough):
        number = int(enough.iloc[0]["images"])
        yield Answer(
            question,
            f"{_things(number, 'image')} of each task {'is' if number == 1 else 'are'} enough: {texts[number]}.",
        )
    elif (lines["difference"] + lines["CI"] < -NEAR).all():
        number = int(lines.iloc[-1]["images"])
        yield Answer(question, f"More than {number:,} of each task: with so many, {texts[number]}.")
    else:
        told = "; ".join(f"with {number:,} of each task, {text}" for number, text in texts.items())
        yield Answer(question, f"{UNCLEAR}: {told}.")


def _labels(rows: Rows, personal: str) -> Iterator[Answer]:
    labelled = [label for label, row in rows.of.items() if row["uses"] == "labels"]
    # Labels that train say more than those of a prior alone.
    chosen = rows.kin(personal, adapt="adabn_s") or min(
        labelled, key=lambda label: rows.of[label]["adapt"] == "none", default=None
    )
    if chosen and (found := rows.difference(chosen, personal)):
        yield Answer("What would the user's labels add?", f"{chosen}, which needs them, minus {personal} is {found}.")


def _cost(rows: Rows, personal: str, costs: pd.DataFrame, facts: Facts | None, folder: Path | None) -> str:
    texts = []
    spent = costs[costs["label"] == personal]
    if len(spent):
        middle = spent[["trainable", "bytes", "seconds"]].median()
        trained = _things(int(middle["trainable"]), "parameter") if middle["trainable"] else "no parameters"
        texts.append(
            f"For each task {personal} takes {_brief(middle['seconds'])} s on the machine of this run, trains "
            f"{trained}, and keeps {_size(middle['bytes'])} beside the server's model."
        )
    sends = rows.of[personal]["prior"] == "user"
    size = f" of {_size(facts.prior_bytes)} for each task" if facts else ""
    released = table(folder / "releases.csv", ReleaseRecord) if folder else pd.DataFrame(columns=["label"])
    own = released[released["label"] == personal]
    if len(own):
        sent, plain = (_size(own[column].median()) for column in ("sent", "plain"))
        size = f" of {sent} for each task, {plain} before its release"
    merging = table(folder / "merges.csv", MergeRecord) if folder else pd.DataFrame(columns=["label", "where", "up"])
    elsewhere = merging[(merging["label"] == personal) & (merging["where"] != "server")]
    if len(elsewhere) and (up := elsewhere["up"].median()):
        texts.append(f"The device sends the server {_size(up)} for all tasks, encrypted; measuring is not timed.")
    elif len(elsewhere):
        texts.append("It sends nothing: the device merges by a prior of its own; measuring it is not timed.")
    elif sends:
        texts.append(f"The device sends the server a prior{size}; measuring it is not timed.")
    else:
        other = any(row["prior"] == "user" for row in rows.of.values())
        texts.append(
            "It sends nothing"
            + (f"; a prior of the user's own would be{size or ' a number for each weight'}." if other else ".")
        )
    return " ".join(texts)


def _next(
    rows: Rows, chosen: str, found: Difference, given: Sequence[str] | None, folder: Path | None
) -> Iterator[Answer]:
    seeds = sorted({int(seed) for seed in rows.draws["seed"]})
    more = [*seeds, *(seed for seed in range(1, 100) if seed not in seeds)][: max(SEEDS, 2 * len(seeds))]
    texts, commands = [], []
    unclear = found.word == UNCLEAR
    if given is not None and (len(seeds) < SEEDS or unclear):
        texts.append("more seeds")
        commands.append(again(given, f"seed=[{','.join(map(str, sorted(more)))}]"))
    if folder is not None:
        texts.append("the report")
        commands.append(shlex.join(["dua", "report", str(folder)]))
        if given is not None and not unclear:
            texts.append(f"the model of {chosen}")
            commands.append(shlex.join(["dua", "export", str(folder), "--row", chosen]))
    if commands:
        yield Answer("Which command next?", f"In this order {_and(texts)}:", tuple(commands))


def _brief(number: float) -> str:
    return f"{number:.2g}" if number < 10 else f"{number:,.0f}"


def _size(count: float) -> str:
    for unit, size in (("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:,.0f} bytes"


def _things(number: int, thing: str) -> str:
    return f"{number:,} {thing}" + ("" if number == 1 else "s")


def _and(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
