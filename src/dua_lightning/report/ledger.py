"""The ledger: what each step adds, from a merge as it is to experts of one's own, and what a prior adds to a merge.

Everything is a gain over the best that the server does without users; see `pairs.Rows.server`. Each line is also
compared with a line before it. Adaptations without labels stand beside AdaBN and null priors beside the uniform one, so
that no later line is measured from them.
"""

import math
import re
from collections.abc import Sequence
from operator import itemgetter

import numpy as np
import pandas as pd

from dua_lightning.report.document import Answer
from dua_lightning.report.pairs import SURE, Difference, Rows, kept, kin, setting
from dua_lightning.report.statistics import ALIKE

POINT = 1.0
"""Users who lose more points than this lose more than rounding and chance easily explain."""
WORST = 0.1
"""The share of users whose mean gain stands for those who are served worst."""
NARROW = 0.5
"""An interval that is narrower, in points, leaves no room for a gain that is worth a prior's cost."""
NULLS = ("noise", "permuted")
"""Importances that know nothing of what a user's images show."""
BESIDE, OWN = 3, 5
"""The stage of lines that no later one is measured from, and that of a user's own prior."""
LAST, ADABN = "last expert's statistics", "user's statistics (AdaBN)"
STAND = (LAST, ADABN)
"""The ends of the names of lines that stand for their stage, where it has several."""
GIVEN = {"last": LAST, "mean": "experts' mean statistics", "task": "each task's statistics", "none": "as it is trained"}
"""The names of the steps of a merge without users, by its statistics."""
WHO = {
    "other": (BESIDE, "another user's"),
    "server": (4, "the server's"),
    "user": (OWN, "the user's"),
    "oracle": (6, "of the scored images"),
}
"""The stage of a prior and its name, by the one who measures it."""
TOLD_APART = re.compile(r"(, [\w.]+=[^,]+)+$")
"""The settings at the end of labels that stood for several results."""
QUESTION = "Does a personal prior carry anything that no other prior does?"
"""The question that `prior` answers."""


Line = tuple[int, str, str]
"""A line of the ledger: its stage, its name, and the row's label."""


def ledger(draws: pd.DataFrame) -> pd.DataFrame:
    """Compute the ledger of the rows of one benchmark and one network.

    Args:
        draws: The lines of `Reduced.draws`.

    Returns:
        A line for each step of each merge, and for each prior of each setting; those with a single line are left out.
        There are none where no row does without users. `accuracy` is in percent, with its standard deviation over
        seeds. `gain` is over the row `server`, `step` over the row `over`, both in points, each with half its 95 % t
        interval over users and its standard deviation over seeds. `lose` and `lose a point` are the percent of users
        who lose against `server` anything, or more than a point; `worst tenth` is the mean gain of the tenth of users
        who gain least, at least one.
    """
    rows = Rows(kept(draws))
    if rows.server is None:
        return pd.DataFrame()
    lines = [
        {"ledger": title, "line": name, **_line(rows, label, rows.server, _before(of_title, stage))}
        for title, of_title in (_steps(rows) | _priors(rows)).items()
        for stage, name, label in sorted(of_title, key=itemgetter(0))
        if len(of_title) > 1
    ]
    return pd.DataFrame(lines)


def gains(draws: pd.DataFrame) -> pd.DataFrame:
    """Compute each user's gain over the best that the server does without users.

    Args:
        draws: The lines of `Reduced.draws` of one benchmark and one network, of which `ledger` has lines.

    Returns:
        Points, the mean over seeds and draws: a line for each user, a column for each row.
    """
    rows = Rows(kept(draws))
    return rows.wide.sub(rows.wide[rows.server], axis="index").groupby(level="user", sort=False).mean()


def prior(draws: pd.DataFrame) -> Answer | None:
    """Say whether a user's own prior is worth more than the best prior that is not the user's.

    Statistics and adaptation are those under which the best other prior is the most accurate, without labels if there
    are such. The best of the others is chosen by the scores, which speaks against the user's.

    Args:
        draws: The lines of `Reduced.draws` of one benchmark and one network.

    Returns:
        The answer; `None` where no setting has a user's own prior and another one.
    """
    rows = Rows(kept(draws))
    found = []
    for lines in _priors(rows).values():
        others = [label for stage, _, label in lines if stage < OWN]
        own = next((label for stage, _, label in lines if stage == OWN), None)
        if own and others:
            best = max(others, key=rows.accuracy)
            if apart := rows.difference(own, best):
                unlabelled = not _labelled(rows, rows.of[own]["adapt"])
                found.append((unlabelled, rows.accuracy(best), own, best, len(others), apart))
    if not found:
        return None
    _, _, own, best, count, apart = max(found, key=lambda one: one[:2])
    among = "the one other prior" if count == 1 else f"the best of {count} other priors"
    text = f"{apart.word}: {own} minus {best}, {among}, is {apart}"
    if math.isnan(apart.half):
        return Answer(QUESTION, f"{text}; {apart.decide()}.")
    width = 2 * apart.half
    narrow = "narrower" if width < NARROW else "not narrower"
    return Answer(QUESTION, f"{text}. The interval is {width:.2f} points wide, {narrow} than half a point.")


def _steps(rows: Rows) -> dict[str, list[Line]]:
    """The lines of each training and merge; those of merges end with unmerged experts."""
    found: dict[str, list[Line]] = {}
    experts: list[Line] = []
    for label, row in rows.of.items():
        if row["importance"] in NULLS or row["prior"] in ("other", "oracle"):
            continue
        labelled, (merge, how) = _labelled(rows, row["adapt"]), _parts(rows, label)
        if row["method"] == "task_experts":
            name = f"{merge}, {ADABN}" if row["adapt"] == "adabn" else label
            experts.append((6, f"{label}, with labels", label) if labelled else (5, name, label))
            continue
        if row["adapt"] == "adabn":
            stage, name = 2, ADABN
        elif row["adapt"] != "none":
            # Adaptations without labels are at home on calibrated statistics; others are named.
            phi = how.removeprefix(", calibrated server statistics").lstrip(" ,+")
            stage, name = (4, f"{phi}, with labels") if labelled else (BESIDE, phi)
        elif row["statistics"] in ("server", "server_calibrated"):
            stage, name = 1, "server's statistics"
        else:
            stage, name = 0, GIVEN.get(row["statistics"], row["statistics"])
        found.setdefault(merge, []).append((stage, name, label))
    merged = [title for title, lines in found.items() if rows.of[lines[0][2]]["statistics"] != "none"]
    for title in merged:
        # Experts alone would make a ledger of a single row.
        found[title] += experts if len(found[title]) > 1 else []
    return found if merged else found | {"Task Experts": experts}


def _priors(rows: Rows) -> dict[str, list[Line]]:
    """The lines of each importance, statistics and adaptation: from a uniform prior to the user's and the oracle's."""
    shared: dict[str, list[Line]] = {}
    found: dict[str, list[Line]] = {}
    for label, row in rows.of.items():
        of, (merge, how) = row["importance"], _parts(rows, label)
        # The label names another merge in the place of the mean.
        if of == "uniform" or (row["method"] == "mean_imm" and not merge.endswith(" merge")):
            shared.setdefault(how, []).append((2, "uniform", label))
        elif of in NULLS:
            shared.setdefault(how, []).append((BESIDE, of, label))
        elif row["prior"] in WHO:
            found.setdefault(f"priors by {of}{how}", []).append((*WHO[row["prior"]], label))
    for title, lines in found.items():
        names = [name for _, name, _ in lines]
        # Levels of one importance differ in their labels alone.
        own = [
            (stage, name if names.count(name) == 1 else f"{name}, {_parts(rows, label)[0]}", label)
            for stage, name, label in lines
        ]
        found[title] = [*shared.get(_parts(rows, lines[0][2])[1], []), *own]
    return found


def _parts(rows: Rows, label: str) -> tuple[str, str]:
    """The merge of a row, and its statistics and adaptation, by its label."""
    merge, plain = kin(label), TOLD_APART.sub("", kin(label))
    # Rows of several settings of one adaptation have these behind it, and the merge as it is has none.
    if all(kin(other) != merge for other, row in rows.of.items() if row["adapt"] == "none"):
        merge = plain
    return merge, label.removeprefix(merge) if label.startswith(merge) else setting(label)


def _before(lines: Sequence[Line], stage: int) -> str | None:
    """The row that stands for the nearest stage before."""
    lower = [line for line in lines if line[0] < stage and line[0] != BESIDE]
    nearest = [line for line in lower if line[0] == max(lower)[0]]
    return next((label for _, name, label in nearest if name.endswith(STAND)), nearest[0][2] if nearest else None)


def _labelled(rows: Rows, adapt: str) -> bool:
    """Whether an adaptation needs labels: all rows with it do, also those whose prior does not."""
    uses = {row["uses"] for row in rows.of.values() if row["adapt"] == adapt} - {"others", "oracle"}
    return adapt not in ("none", "adabn") and uses == {"labels"}


def _line(rows: Rows, label: str, server: str, over: str | None) -> dict[str, object]:
    """The numbers of one row."""
    known = Difference(rows.wide[label].dropna())
    gain = None if label == server else rows.difference(label, server)
    users = np.sort(gain.users.to_numpy()) if gain else np.array([math.nan])
    return {
        "row": label,
        "users": len(known.users),
        "accuracy": known.mean,
        "std (seeds)": known.seeds.std(),
        "server": server,
        **_told("gain", gain),
        "over": over or "",
        **_told("step", rows.difference(label, over) if over else None),
        "lose": 100 * (users < -ALIKE).mean() if gain else math.nan,
        "lose a point": 100 * (users < -POINT).mean() if gain else math.nan,
        "worst tenth": users[: max(1, round(WORST * len(users)))].mean(),
    }


def _told(name: str, found: Difference | None) -> dict[str, float]:
    numbers = (found.mean, found.half, found.seeds.std()) if found else (math.nan,) * 3
    return dict(zip((name, f"{name} CI", f"{name} std (seeds)"), map(float, numbers), strict=True))


def interval_text(mean: float, half: float) -> str:
    """Write a difference and its interval for a table.

    Args:
        mean: The difference in points.
        half: Half its interval; NaN where there is none.

    Returns:
        The text; an empty one for a difference that is NaN.

    Examples:
        >>> interval_text(9.5, 5.6)
        '+9.5 [+3.9, +15.1]'
    """
    if math.isnan(mean):
        return ""
    return f"{mean:+.1f}" + ("" if math.isnan(half) else f" [{mean - half:+.1f}, {mean + half:+.1f}]")


def note(found: pd.DataFrame) -> str:
    """Say what the columns of the ledger mean.

    Args:
        found: The lines of `ledger`.

    Returns:
        The sentences.
    """
    return (
        f"Accuracy in percent. gain: points over {found['server'].iloc[0]}, the server's best without users' data; "
        "step: points over the line before, where adaptations without labels stand beside AdaBN, and null priors "
        f"beside the uniform one; both with the {SURE} over users. lose: percent of users who lose against the "
        "server's best, and who lose more than a point; worst tenth: the mean gain of the tenth of users who gain "
        "least."
    )
