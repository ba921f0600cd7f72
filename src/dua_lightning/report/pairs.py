"""The rows of one benchmark and one network, and their paired differences.

Differences are paired by seed, user and draw. Intervals are 95 % t intervals over users, of each user's mean over seeds
and draws.
"""

import math
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from dua_lightning.report.reduce import PAIR
from dua_lightning.report.statistics import FEWEST, LEVEL, interval, needed

NEAR = 1.0
"""Points of accuracy that hardly matter."""
LEAST = 0.02
"""A smaller mean, in standard deviations, takes ten thousand users or more."""
FEW = re.compile(r" \+ AdaBN of (\d+) images")
"""The end of a row's label that tells how many images AdaBN took."""
OF_FEW = re.compile(r" of \d+ images")
"""The part of a row's label that tells that any adaptation took a few images."""
SETTING = re.compile(r", (?:calibrated )?\w+ statistics| \+ (?:\([^)]*\)|[^,(])*")
"""The parts of a row's label that tell its statistics and its adaptation, whose settings may be in brackets."""
COLUMNS = ["method", "importance", "prior", "statistics", "adapt", "uses"]
"""Columns that tell what a row is."""
UNCLEAR = "Not enough to tell"
"""The answer where the interval has 0 in it, or there are too few users for one."""
SURE = f"{100 * LEVEL:.0f} % interval"
"""The name of intervals in sentences."""


@dataclass(frozen=True)
class Difference:
    """One row minus another one, average accuracy in points.

    Args:
        apart: The differences by seed, user and draw.
    """

    apart: pd.Series

    @cached_property
    def users(self) -> pd.Series:
        """Each user's mean over seeds and draws."""
        return self.apart.groupby(level="user", sort=False).mean()

    @cached_property
    def mean(self) -> float:
        """The mean over users."""
        return float(self.users.mean())

    @cached_property
    def half(self) -> float:
        """Half the interval over users; NaN for too few of them."""
        return float(interval(self.users.to_numpy()).half) if len(self.users) >= FEWEST else math.nan

    @property
    def seeds(self) -> pd.Series:
        """Each seed's mean over users and draws."""
        return self.apart.groupby(level="seed").mean()

    @property
    def clear(self) -> bool:
        """Whether the interval leaves 0 out."""
        return abs(self.mean) > self.half

    @property
    def near(self) -> bool:
        """Whether the whole interval is within `NEAR` points of 0."""
        return abs(self.mean) + self.half < NEAR

    @property
    def word(self) -> str:
        """The first word of an answer: `Yes`, `Hardly`, `No`, or `UNCLEAR`."""
        if self.near:
            return "Hardly"
        return ("Yes" if self.mean > 0 else "No") if self.clear else UNCLEAR

    def __str__(self) -> str:
        text = points(self.mean)
        if not math.isnan(self.half):
            low, high = self.mean - self.half, self.mean + self.half
            text += f" ({SURE} {low:+.1f} to {high:+.1f}, {len(self.users):,} users)"
        return text

    def decide(self) -> str:
        """Say what would decide an open question, roughly, from the standard deviations.

        Returns:
            The end of a sentence.
        """
        if len(self.users) < FEWEST:
            return f"an interval over users needs at least {FEWEST} of them"
        spread = float(self.users.std())
        again = self.apart.groupby(level="user").agg(["var", "count"])
        noise = float((again["var"] / again["count"]).mean()) if (again["count"] > 1).all() else 0.0
        if noise > spread**2 / 2:
            return "most of the spread is chance within each user: more seeds or draws would decide"
        if abs(self.mean) < spread * LEAST:
            return "if there is a difference, it is too small to be worth more users"
        return f"about {needed(self.mean, spread, len(self.users) + 1):,} users like these would decide"


class Rows:
    """The rows of one benchmark and one network.

    Args:
        draws: The lines of `Reduced.draws`.
    """

    def __init__(self, draws: pd.DataFrame) -> None:
        lines = draws.drop_duplicates("label").set_index("label")[COLUMNS]
        self.of: dict[str, dict[str, Any]] = {str(label): dict(line) for label, line in lines.iterrows()}
        self.wide = draws.pivot_table(index=PAIR, columns="label", values="average_accuracy", sort=False)
        self.draws = draws

    @cached_property
    def server(self) -> str | None:
        """The baseline of every claim about users: the row with the highest mean that uses nothing of theirs."""
        found = [label for label, row in self.of.items() if row["uses"] == "nothing"]
        return max(found, key=self.accuracy, default=None)

    @cached_property
    def personal(self) -> str | None:
        """The row that stands for personalization without labels; see `_preference`."""
        found = [label for label, row in self.of.items() if row["uses"] == "images" and not OF_FEW.search(label)]
        return min(found, key=self._preference, default=None)

    def _preference(self, label: str) -> tuple[bool, int]:
        """A fixed order: AdaBN before none, then priors of the server's, of users', and none; then that of records."""
        row = self.of[label]
        return row["adapt"] != "adabn", ("server", "user", "none").index(row["prior"])

    def accuracy(self, label: str) -> float:
        """Average a row's accuracy over users, each the mean over seeds and draws.

        Args:
            label: The row's label.

        Returns:
            The mean in percent.
        """
        return float(self.wide[label].groupby(level="user").mean().mean())

    def difference(self, first: str, second: str) -> Difference | None:
        """Subtract the second row from the first.

        Args:
            first: The label of a row.
            second: The label of the row that is subtracted.

        Returns:
            The difference; `None` where the two have no user, seed and draw in common.
        """
        apart = (self.wide[first] - self.wide[second]).dropna()
        return Difference(apart) if len(apart) else None

    def kin(self, label: str, **row: str) -> str | None:
        """Find the row of the same training and merge with some columns.

        Args:
            label: The label of a row.
            **row: The values of its `COLUMNS`.

        Returns:
            The label of the first such row, if there is one.
        """
        found = (
            other
            for other, line in self.of.items()
            if kin(other) == kin(label) and row.items() <= line.items() and not OF_FEW.search(other)
        )
        return next(found, None)


def kept(draws: pd.DataFrame) -> pd.DataFrame:
    """Leave out the rows of the authors' released behaviour.

    Args:
        draws: The lines of `Reduced.draws`.

    Returns:
        The other lines.
    """
    return draws[(draws["fidelity"] == "paper") & ~draws["adapt"].astype(str).str.endswith("_released")]


def kin(label: str) -> str:
    """Cut a row's label to its training and merge.

    Args:
        label: The label.

    Returns:
        The label without statistics and adaptation.

    Examples:
        >>> kin("MAS-IMM, server statistics + TENT (epochs 1, lr 0.1)")
        'MAS-IMM'
        >>> kin("MAS-IMM, calibrated server statistics + auto")
        'MAS-IMM'
    """
    return SETTING.sub("", label)


def setting(label: str) -> str:
    """Cut a row's label to its statistics and adaptation.

    Args:
        label: The label.

    Returns:
        What `kin` leaves out.

    Examples:
        >>> setting("MAS-IMM, server statistics + AdaBN")
        ', server statistics + AdaBN'
    """
    return "".join(SETTING.findall(label))


def points(number: float) -> str:
    """Write points of accuracy in a sentence.

    Args:
        number: The number of points.

    Returns:
        The text.
    """
    return f"{number:+.1f} points"
