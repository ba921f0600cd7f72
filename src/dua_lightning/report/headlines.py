"""The titles of figures: each says from the data what the figure shows."""

import math
import warnings
from collections.abc import Mapping

import numpy as np
import pandas as pd

from dua_lightning.report.statistics import LEVEL

SAME = 0.05
"""Titles do not show differences of fewer percent, or points."""


def accuracy(draws: pd.DataFrame) -> str:
    """Say which row serves users best, and which worst.

    Args:
        draws: The lines of `Reduced.draws`.

    Returns:
        The title.
    """
    means = draws.groupby("row", sort=False)["average_accuracy"].mean()
    if len(means) == 1:
        return f"{means.index[0]} is right on {means.iloc[0]:.1f} % of the images, averaged over users"
    if means.max() - means.min() < SAME:
        return f"The {len(means)} rows serve users alike ({means.max():.1f} %)"
    return f"{means.idxmax()} serves users best ({means.max():.1f} %), {means.idxmin()} worst ({means.min():.1f} %)"


def users(draws: pd.DataFrame) -> str:
    """Say which user is served best, and which worst.

    Args:
        draws: The lines of `Reduced.draws`.

    Returns:
        The title.
    """
    means = draws.groupby("user", sort=False)["average_accuracy"].mean()
    if len(means) == 1:
        return f"How each method serves the one user, {means.index[0]}"
    if means.max() - means.min() < SAME:
        return f"The {len(means)} users are served alike ({means.max():.1f} %)"
    return (
        f"User {means.idxmin()} is served worst ({means.min():.1f} % over all methods), {means.idxmax()} best "
        f"({means.max():.1f} %)"
    )


def spread(draws: pd.DataFrame) -> str:
    """Say how unequally each row serves the users.

    Args:
        draws: The lines of `Reduced.draws`.

    Returns:
        The title.
    """
    low, high = (draws.groupby("row", sort=False)["average_accuracy"].quantile(share) for share in (0.05, 0.95))
    between = high - low
    if len(between) == 1:
        return f"Nine in ten users of {between.index[0]} are within {between.iloc[0]:.1f} points of accuracy"
    return (
        f"Nine in ten users are within {between.min():.1f} points of accuracy under {between.idxmin()}, "
        f"{between.max():.1f} under {between.idxmax()}"
    )


def kept(R: Mapping[str, np.ndarray]) -> str:
    """Say how much of the accuracy on earlier tasks each row has at the end.

    Args:
        R: The accuracy matrix of each row, in percent.

    Returns:
        The title.
    """
    found = {name: _kept(matrix) for name, matrix in R.items()}
    known = {name: value for name, value in found.items() if not math.isnan(value)}
    if not known:
        return "Accuracy on each task after the last one"
    best, worst = max(known, key=known.__getitem__), min(known, key=known.__getitem__)
    if best == worst:
        return f"{best} keeps {known[best]:.0f} % of the accuracy that it had on earlier tasks"
    if known[best] - known[worst] < SAME:
        return f"Every row keeps {known[best]:.0f} % of the accuracy that it had on earlier tasks"
    return f"Of the accuracy on earlier tasks {best} keeps {known[best]:.0f} %, {worst} {known[worst]:.0f} %"


def lost(R: Mapping[str, np.ndarray], first: str = "1") -> str:
    """Say how the accuracy on the first task changes from when it was learnt to the end.

    Args:
        R: The accuracy matrix of each row, in percent.
        first: The name of the first task.

    Returns:
        The title.
    """
    found = {name: float(matrix[0, 0] - matrix[-1, 0]) for name, matrix in R.items()}
    known = {name: value for name, value in found.items() if not math.isnan(value)}
    if not known or len(next(iter(R.values()))) == 1:
        return "Accuracy on each task while others are learnt"
    worst, best = max(known, key=known.__getitem__), min(known, key=known.__getitem__)
    text = f"While other tasks are learnt, accuracy on task {first} {_moved(known[worst])} under {worst}"
    return text if best == worst else f"{text}, and {_moved(known[best])} under {best}"


def few_images(found: pd.DataFrame) -> str:
    """Say how much less AdaBN of the fewest images gives than AdaBN of all.

    Args:
        found: The lines of `verdict.few`.

    Returns:
        The title.
    """
    first = found.iloc[0]
    return f"{first['row']} is {first['difference']:+.1f} points from AdaBN of all images"


def ledger(found: pd.DataFrame) -> str:
    """Say which line of the ledger gains most over the best that the server does without users.

    Args:
        found: The lines of `ledger.ledger`.

    Returns:
        The title.
    """
    best = found.iloc[found["gain"].fillna(-math.inf).argmax()]
    return f"{best['row']} is {best['gain']:+.1f} points from {best['server']}, the server's best without users"


def differences(pairs: pd.DataFrame) -> str:
    """Say how many of the paired differences between rows are significant, and which is largest.

    Args:
        pairs: The lines of `reduce.differences`.

    Returns:
        The title.
    """
    if pairs["difference"].abs().max() < SAME:
        return f"No difference between rows is as large as {SAME} points"
    if pairs["p"].isna().all():
        return "How much each row serves users better or worse than each other one; too few repetitions for a test"
    clear = pairs[pairs["p (Holm)"] < 1 - LEVEL]
    if clear.empty:
        return "No difference between rows is larger than chance explains"
    largest = clear.iloc[clear["difference"].abs().to_numpy().argmax()]
    return (
        f"{len(clear)} of {len(pairs)} differences are larger than chance explains: {largest['first']} minus "
        f"{largest['second']} is {largest['difference']:+.1f} points"
    )


def training(epochs: pd.DataFrame) -> str:
    """Say how many epochs each expert is trained for.

    Args:
        epochs: A line for each epoch of a training.

    Returns:
        The title.
    """
    counts = epochs.groupby(["seed", "experts", "task"])["epoch"].max()
    if counts.nunique() == 1:
        return f"Each expert is trained for {counts.iloc[0]} epochs"
    return f"An expert is trained for {counts.min()} to {counts.max()} epochs, until its accuracy stays"


def _kept(R: np.ndarray) -> float:
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)
        shares = R[-1, :-1] / np.diagonal(R)[:-1]
        return float(100 * np.mean(shares[np.isfinite(shares)]))


def _moved(points: float) -> str:
    if abs(points) < SAME:
        return "stays"
    return f"falls by {points:.1f} points" if points > 0 else f"rises by {-points:.1f} points"
