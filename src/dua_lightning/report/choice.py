"""The choice of settings without the users who are scored, beside the one that their scores would make."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from dua_lightning.errors import InputError
from dua_lightning.report.pairs import Rows

FAMILY = ["model", "fidelity", "method", "importance", "prior", "statistics", "adapt"]
"""Columns of rows that differ in their settings alone, which their labels tell apart."""
SERVER, ORACLE = "server", "oracle"
"""The one who chooses: the server by simulated users, or an oracle by the users who are scored, which cheats."""


@dataclass(frozen=True)
class Family:
    """Rows that differ in their settings alone.

    Args:
        columns: The values of `FAMILY`.
        simulated: The mean of each row over simulated users in percent, by its label.
    """

    columns: tuple[str, ...]
    simulated: dict[str, float]

    @property
    def chosen(self) -> str:
        """The label of the row that is the best on simulated users."""
        return max(self.simulated, key=self.simulated.__getitem__)


def families(simulated: pd.DataFrame) -> list[Family]:
    """Find the families of rows, and what a server chooses in each by simulated users alone.

    Args:
        simulated: The lines of `Reduced.draws` of simulated users.

    Returns:
        The families of several rows.
    """
    found = []
    for columns, draws in simulated.groupby(FAMILY, sort=False):
        rows = Rows(draws)
        found.append(Family(tuple(map(str, columns)), {label: rows.accuracy(label) for label in rows.of}))
    return [family for family in found if len(family.simulated) > 1]


def compared(choices: Sequence[Family], scored: pd.DataFrame) -> pd.DataFrame:
    """Compare the server's choices with those that the scored users' own accuracies would make.

    Args:
        choices: The families that the server chose from.
        scored: The lines of `Reduced.draws` of the scored users.

    Returns:
        Two lines for each family, with `selection` `server` and `oracle`: `row`, `among` how many rows, `simulated`
        and `accuracy` in percent, and `gap`, what the oracle's row has more than the server's, in points, with half its
        95 % t interval over users. The oracle chooses by what it is scored on, so that the gap is too large rather than
        too small.

    Raises:
        InputError: The scored users lack a row that was chosen from, or two rows have no user, seed and draw in common.
    """
    lines = []
    for family in choices:
        own = dict(zip(FAMILY, family.columns, strict=True))
        draws = scored[(scored[["model", "fidelity"]] == [own["model"], own["fidelity"]]).all(axis="columns")]
        rows = Rows(draws[draws["label"].isin(list(family.simulated))])
        if missing := family.simulated.keys() - rows.of.keys():
            raise InputError(f"the scored users have no row {min(missing)}; run the same rows or sweep on both")
        best = max(rows.of, key=rows.accuracy)
        gap = rows.difference(best, family.chosen)
        if gap is None:
            raise InputError(f"{best} and {family.chosen} have no user, seed and draw in common; run both on the same")
        lines += [
            {
                **own,
                "selection": selection,
                "row": label,
                "among": len(rows.of),
                "simulated": family.simulated[label],
                "accuracy": rows.accuracy(label),
                "gap": gap.mean,
                "gap CI": gap.half,
            }
            for selection, label in ((SERVER, family.chosen), (ORACLE, best))
        ]
    return pd.DataFrame(lines)
