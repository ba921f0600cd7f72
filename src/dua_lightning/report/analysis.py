"""What the accuracies of several runs say, as tables: one line for each row, pair of rows, or user.

`merits` is everywhere that of `tables.merits`: a line for each accuracy matrix.
"""

from itertools import combinations

import numpy as np
import pandas as pd

from dua_lightning.report.statistics import Interval, holm, interval, p_value

AXES = {"seed": "seeds", "user": "users", "iteration": "iterations"}
"""What is repeated, in the order in which it is preferred for an interval."""
PAIR = ["seed", "user", "iteration"]
MANY = 20
"""Of users: fewer have no percentiles of 5."""


def repeated(merits: pd.DataFrame) -> list[str]:
    """The axes of which there are several; intervals can be taken over each."""
    return [axis for axis in AXES if merits[axis].nunique() > 1]


def over(merits: pd.DataFrame, column: str, axis: str) -> Interval:
    """The interval of a column over an axis: of its means over the other two."""
    return interval(merits.groupby(axis)[column].mean().to_numpy())


def rows(merits: pd.DataFrame) -> pd.DataFrame:
    """Average accuracy and forgetting of each row, with half the width of the interval over each repeated axis."""
    lines = []
    for row, group in merits.groupby("row", sort=False):
        line: dict[str, object] = {"row": row}
        for column, name in (("average_accuracy", "accuracy"), ("forgetting", "forgetting")):
            line[name] = over(group, column, "seed").mean
            line |= {f"{name} ± {AXES[axis]}": over(group, column, axis).half for axis in repeated(merits)}
        lines.append(line)
    return pd.DataFrame(lines)


def differences(merits: pd.DataFrame) -> pd.DataFrame:
    """The average accuracy of each row minus each later one, in points, paired by seed, user and iteration.

    Interval and test are over the first repeated axis, of the means over the others; p-values are corrected for the
    number of pairs. Rows without anything in common are no pair.
    """
    axis = (repeated(merits) or ["seed"])[0]
    wide = merits.pivot_table(index=PAIR, columns="row", values="average_accuracy", sort=False)
    lines = []
    for first, second in combinations(merits["row"].unique(), 2):
        apart = (wide[first] - wide[second]).dropna()
        if len(apart):
            means = apart.groupby(level=axis).mean().to_numpy()
            found = interval(means)
            lines.append((first, second, found.mean, found.half, len(apart), p_value(means)))
    frame = pd.DataFrame(lines, columns=["first", "second", "difference", f"± {AXES[axis]}", "pairs", "p"])
    return frame.assign(**{"p (Holm)": holm(frame["p"].tolist())})


def users(merits: pd.DataFrame) -> pd.DataFrame:
    """Each row's average accuracy for each user, with the interval over seeds and iterations where they are several."""
    axes = [axis for axis in repeated(merits) if axis != "user"]
    lines = []
    for (row, user), group in merits.groupby(["row", "user"], sort=False):
        halves = {f"± {AXES[axis]}": over(group, "average_accuracy", axis).half for axis in axes}
        lines.append({"row": row, "user": user, "accuracy": over(group, "average_accuracy", "seed").mean, **halves})
    return pd.DataFrame(lines)


def extremes(merits: pd.DataFrame) -> pd.DataFrame:
    """Who is served worst and best by each row, and what lies between: percentiles where there are users enough."""
    means = merits.groupby(["row", "user"], sort=False)["average_accuracy"].mean()
    lines = []
    for row, of_row in means.groupby(level="row", sort=False):
        by_user = of_row.droplevel("row")
        low, middle, high = np.percentile(by_user, (5, 50, 95))
        between = (
            {"5 % below": low, "median": middle, "95 % below": high} if len(by_user) >= MANY else {"median": middle}
        )
        ends = {"worst user": by_user.idxmin(), "worst": by_user.min()}
        lines.append({"row": row, **ends, **between, "best": by_user.max(), "best user": by_user.idxmax()})
    return pd.DataFrame(lines)
