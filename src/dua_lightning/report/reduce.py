"""The one reduction of records: every table, figure, page and logger takes its numbers from here.

`reduce` reads records piece by piece and keeps one line for each accuracy matrix, so that the records of ten thousand
users need no room. The functions after it make small tables of these lines; `draws` is everywhere that of `Reduced`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import pandas as pd

from dua_lightning.errors import InputError
from dua_lightning.metrics import average_accuracy, forgetting, forgetting_released
from dua_lightning.report.labels import adaptation
from dua_lightning.report.records import matrices
from dua_lightning.report.statistics import Interval, holm, interval, p_value

AXES = {"seed": "seeds", "user": "users", "iteration": "iterations"}
"""The axes over which results are repeated, in the order in which an interval prefers them."""
PAIR = ["seed", "user", "iteration"]
ROW = ["data", "model", "fidelity", "label"]
"""Columns that pair results of several rows, and columns that identify a row."""
MERITS = {"average_accuracy": "accuracy", "forgetting": "forgetting"}
"""The columns of the figures of merit, and their names in tables."""
MANY = 100
"""From more users than this, tables and figures show the spread, and no names."""
FEW = 20
"""Fewer users than this have no 5th percentile."""
PERCENTILES = (5, 25, 50, 75, 95)
"""The percentiles over users that tables show."""


@dataclass(frozen=True)
class Reduced:
    """The records in short.

    Args:
        draws: One line for each accuracy matrix: the columns `KEYS`, `average_accuracy` (percent), `forgetting` and
            `forgetting_released` (points), and `row`: the label, preceded by data, model and fidelity where there are
            several of them. Forgetting is averaged over the earlier tasks, or as the release does where the records are
            of its behaviour.
        means: For each row, by its `ROW` columns, the accuracy matrix `(N, N)` in percent, averaged over users,
            iterations and seeds.
        tasks: The names of the tasks of each benchmark, where they are known.
    """

    draws: pd.DataFrame
    means: dict[tuple[str, ...], np.ndarray]
    tasks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def many(self) -> bool:
        """Whether there are more than `MANY` users."""
        return bool(self.draws["user"].nunique() > MANY)

    @property
    def matrices(self) -> dict[str, np.ndarray]:
        """The mean accuracy matrix of each row by the row's name, in the order of the records."""
        lines = self.draws.drop_duplicates("row")[["row", *ROW]].itertuples(index=False, name=None)
        return {row: self.means[tuple(identity)] for row, *identity in lines}

    def benchmarks(self) -> Iterator[tuple[str, "Reduced"]]:
        """Part the records by benchmark.

        Yields:
            Each benchmark's name and its part.
        """
        for data, part in self.draws.groupby("data", sort=False):
            yield str(data), Reduced(_named(part), self.means, self.tasks)

    @property
    def task_names(self) -> list[str]:
        """The tasks' names in the order of learning; their numbers from 1 for several benchmarks, or unknown names."""
        N = max(map(len, self.matrices.values()))
        known = [self.tasks.get(str(data), ()) for data in self.draws["data"].unique()]
        numbers = [str(t + 1) for t in range(N)]
        return list(known[0]) if len(known) == 1 and len(known[0]) == N else numbers


def reduce(tables: Iterable[pd.DataFrame]) -> Reduced:
    """Reduce tables of records; a result that is given twice counts once.

    Args:
        tables: Tables that come one after another; no accuracy matrix is parted between two of them.

    Returns:
        The records in short.

    Raises:
        InputError: Two results of the same row, user, draw and seed differ.
    """
    parts: list[pd.DataFrame] = []
    sums: dict[tuple[str, ...], tuple[np.ndarray, np.ndarray]] = {}
    seen: dict[int, int] = {}
    for keys, R in (found for table in tables for found in matrices(table)):
        new = np.array([key not in seen for key in _hash(keys)])
        for place, (key, result) in enumerate(zip(_hash(keys), _results(R), strict=True)):
            if seen.setdefault(key, result) != result:
                line = keys.iloc[place]
                raise InputError(
                    f"there are two results of {line['label']}, user {line['user']}, seed {line['seed']}, by the same "
                    "settings; leave one out, or look at both by dua compare A B"
                )
        keys, R = keys[new].reset_index(drop=True), R[new]
        if keys.empty:
            continue
        released = forgetting_released(R)
        lost = np.where(keys["fidelity"] == "released", released, forgetting(R))
        merits = {"average_accuracy": average_accuracy(R), "forgetting": lost, "forgetting_released": released}
        parts.append(keys.assign(**merits))
        for identity, places in keys.groupby(ROW, sort=False).indices.items():
            row = tuple(map(str, identity))  # type: ignore[call-overload]
            total, known = sums.get(row, (np.zeros(R.shape[1:]), np.zeros(R.shape[1:])))
            sums[row] = total + np.nansum(R[places], axis=0), known + (~np.isnan(R[places])).sum(axis=0)
    with np.errstate(invalid="ignore"):
        means = {row: total / known for row, (total, known) in sums.items()}
    return Reduced(_named(pd.concat(parts, ignore_index=True)), means)


def digests(records: pd.DataFrame) -> pd.DataFrame:
    """Compute digests by which results of several runs are compared in a hundredth of the memory of their records.

    Args:
        records: A line for each record.

    Returns:
        One line for each accuracy matrix: its `label` and `seed`, a number for its other keys, and one for its
        `result`.
    """
    return pd.concat(
        keys[["label", "seed"]].assign(key=_hash(keys.drop(columns="label")), result=_results(R))
        for keys, R in matrices(records)
    )


def repeated(draws: pd.DataFrame) -> list[str]:
    """Name the axes over which results are repeated; intervals can be taken over each.

    Args:
        draws: The lines of `Reduced.draws`.

    Returns:
        Some of the keys of `AXES`.
    """
    return [axis for axis in AXES if draws[axis].nunique() > 1]


def over_seeds(draws: pd.DataFrame, by: Sequence[str] = ("row",)) -> pd.DataFrame:
    """Average the figures of merit over seeds; each seed's value is its mean over users and iterations.

    Args:
        draws: The lines of `Reduced.draws`.
        by: The columns that identify a line of the result.

    Returns:
        Means, and standard deviations (n - 1) as `NAME_std`; NaN where a figure is not defined.
    """
    seeds = draws.groupby([*by, "seed"], sort=False)[list(MERITS)].mean().groupby(list(by), sort=False)
    return seeds.mean().join(seeds.std().add_suffix("_std")).sort_index(axis="columns")


def percentiles(draws: pd.DataFrame) -> pd.DataFrame:
    """Compute the average accuracy below which 5, 25, 50, 75 and 95 % of users, draws and seeds lie.

    Args:
        draws: The lines of `Reduced.draws`.

    Returns:
        A line for each row, in percent: `p5` to `p95`.
    """
    found = draws.groupby("row", sort=False)["average_accuracy"].quantile(np.array(PERCENTILES) / 100)
    return found.unstack(sort=False).set_axis([f"p{p}" for p in PERCENTILES], axis="columns")


def rows(draws: pd.DataFrame) -> pd.DataFrame:
    """Average accuracy and forgetting of each row.

    Args:
        draws: The lines of `Reduced.draws`.

    Returns:
        A line for each row: means, and half the width of the interval over each repeated axis.
    """
    found = pd.DataFrame(index=pd.Index(draws["row"].unique(), name="row"))
    for merit, name in MERITS.items():
        found[name] = over(draws, merit, "seed").mean
        for axis in repeated(draws):
            found[f"{name} CI ({AXES[axis]})"] = over(draws, merit, axis).half
    return found.reset_index()


def over(draws: pd.DataFrame, merit: str, axis: str, by: Sequence[str] = ("row",)) -> Interval:
    """Compute the interval of a figure of merit over an axis, of its means over the others.

    Args:
        draws: The lines of `Reduced.draws`.
        merit: The column of the figure.
        axis: One of the keys of `AXES`.
        by: The columns that identify a line of the result.

    Returns:
        The interval, as series by `by`.
    """
    wide = draws.groupby([*by, axis], sort=False)[merit].mean().unstack(axis, sort=False)
    found = interval(wide.to_numpy())
    return Interval(pd.Series(found.mean, wide.index), pd.Series(found.half, wide.index))


def differences(draws: pd.DataFrame) -> pd.DataFrame:
    """Compute the average accuracy of each row minus each later one, paired by seed, user and iteration.

    Interval and test are over the first repeated axis, of the means over the others; p-values are corrected for the
    number of pairs. Rows without anything in common are no pair.

    Args:
        draws: The lines of `Reduced.draws`.

    Returns:
        A line for each pair, in points.
    """
    wide = draws.pivot_table(index=PAIR, columns="row", values="average_accuracy", sort=False)
    axis = (repeated(draws) or ["seed"])[0]
    lines = [
        (first, second, *paired(apart, axis))
        for first, second in combinations(draws["row"].unique(), 2)
        if len(apart := (wide[first] - wide[second]).dropna())
    ]
    frame = pd.DataFrame(lines, columns=["first", "second", "difference", f"CI ({AXES[axis]})", "pairs", "p"])
    return frame.assign(**{"p (Holm)": holm(frame["p"].tolist())})


def paired(apart: pd.Series, axis: str) -> tuple[float, float, int, float]:
    """Test paired differences over an axis of their index.

    Args:
        apart: The differences.
        axis: The level of the index.

    Returns:
        Mean, half the interval, number of pairs, and p-value.
    """
    means = apart.groupby(level=axis).mean().to_numpy()
    found = interval(means)
    return float(found.mean), float(found.half), len(apart), p_value(means)


def gains(draws: pd.DataFrame) -> pd.DataFrame:
    """Compute the effect of a user's own prior: each RACL row minus its IMM row, where there are both.

    Args:
        draws: The lines of `Reduced.draws`.

    Returns:
        A line for each pair: mean and standard deviation over seeds, in points.
    """
    wide = draws.pivot_table(index=PAIR, columns="row", values="average_accuracy", sort=False)
    pairs = [(row, row.replace("-RACL", "-IMM")) for row in map(str, wide) if "-RACL" in row]
    apart = {f"{row} minus {other}": wide[row] - wide[other] for row, other in pairs if other in wide}
    seeds = pd.DataFrame(apart, index=wide.index).groupby(level="seed").mean()
    return pd.DataFrame({"mean": seeds.mean(), "std": seeds.std()})


def users(draws: pd.DataFrame) -> pd.DataFrame:
    """Average each row's accuracy for each user.

    Args:
        draws: The lines of `Reduced.draws`.

    Returns:
        A line for each row and user, in percent, with the interval over seeds and iterations where they are several.
    """
    by = ("row", "user")
    found = over(draws, "average_accuracy", "seed", by).mean.rename("accuracy").to_frame()
    for axis in repeated(draws):
        if axis != "user":
            found[f"CI ({AXES[axis]})"] = over(draws, "average_accuracy", axis, by).half
    lines: pd.DataFrame = found.reset_index()
    return lines


def extremes(draws: pd.DataFrame) -> pd.DataFrame:
    """Find for each row the users who are served worst and best.

    Args:
        draws: The lines of `Reduced.draws`.

    Returns:
        A line for each row, with the median in between, and percentiles where users are enough.
    """
    means = draws.groupby(["row", "user"], sort=False)["average_accuracy"].mean()
    lines = []
    for row, of_row in means.groupby(level="row", sort=False):
        by_user = of_row.droplevel("row")
        low, middle, high = np.percentile(by_user, (5, 50, 95))
        between = (
            {"5 % below": low, "median": middle, "95 % below": high} if len(by_user) >= FEW else {"median": middle}
        )
        ends = {"worst user": by_user.idxmin(), "worst": by_user.min()}
        lines.append({"row": row, **ends, **between, "best": by_user.max(), "best user": by_user.idxmax()})
    return pd.DataFrame(lines)


def entries(reduced: Reduced) -> pd.DataFrame:
    """Write the mean accuracy matrices as lines.

    Args:
        reduced: The reduced records.

    Returns:
        A line for each entry: row, after, on (both from 1), accuracy in percent.
    """
    lines = [
        (row, int(t) + 1, int(j) + 1, R[t, j])
        for row, R in reduced.matrices.items()
        for t, j in np.argwhere(~np.isnan(R))
    ]
    return pd.DataFrame(lines, columns=["row", "after", "on", "accuracy"])


def compared(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """Compare the rows that two tables of draws share, paired by seed, user and iteration.

    Rows are the same by benchmark and label, and by network and fidelity where a table has several; where each table
    has a single row on one benchmark, the two are compared whatever their names.

    Args:
        a: The lines of one `Reduced.draws`.
        b: Those of another one.

    Returns:
        A line for each row and figure of merit: both means, and B minus A. There are no lines where nothing agrees.
    """
    several = [name for name in ROW if name in ("data", "label") or any(side[name].nunique() > 1 for side in (a, b))]
    alone = all(side["row"].nunique() == 1 for side in (a, b))
    keys = ["data"] if alone else several
    labels = tuple(dict.fromkeys(side["label"].iloc[0] for side in (a, b)))
    pairs = a.merge(b, on=[*keys, *PAIR], suffixes=(" A", " B"))
    axis = (repeated(pairs) or ["seed"])[0]
    lines = []
    for identity, group in pairs.groupby(keys, sort=False):
        # The benchmark is named where there are several.
        names = labels if alone else tuple(identity)[a["data"].nunique() < 2 :]
        for merit, title in MERITS.items():
            known = group.set_index(PAIR)[[f"{merit} A", f"{merit} B"]].dropna()
            if len(known):
                apart = known[f"{merit} B"] - known[f"{merit} A"]
                lines.append((" / ".join(map(str, names)), title, *known.mean(), *paired(apart, axis)))
    frame = pd.DataFrame(lines, columns=["row", "figure", "A", "B", "B - A", f"CI ({AXES[axis]})", "pairs", "p"])
    return frame.assign(p=holm(frame["p"].tolist()))


COST_FORMATS = {"trained parameters": ",.0f", "kept (KiB)": ",.1f", "seconds": ".3f", "peak memory (MiB)": ",.1f"}
"""The formats of the numbers that `cost_medians` gives."""


def cost_medians(costs: pd.DataFrame) -> pd.DataFrame:
    """Compute the cost of each adaptation of one task's state.

    Args:
        costs: A line for each `CostRecord`.

    Returns:
        A line for each adaptation, as labels name it, on each network: medians over rows, users and tasks. Peak memory
        is a column where it was measured, on CUDA devices.
    """
    numbers = ["trainable", "bytes", "seconds", "peak_bytes"]
    several = [name for name in ROW[:2] if costs[name].nunique() > 1]
    named = costs.assign(adapt=costs["label"].map(adaptation))
    middle = named.groupby([*several, "adapt", "statistics"], sort=False, observed=True)[numbers].median()
    middle["bytes"] /= 2**10
    middle["peak_bytes"] /= 2**20
    names = [*several, "adaptation", "statistics", "trained parameters", "kept (KiB)", "seconds", "peak memory (MiB)"]
    table = middle.reset_index().set_axis(names, axis="columns")
    return table.dropna(axis="columns", how="all")


MERGE_FORMATS = {
    "up (KiB)": ",.1f",
    "down (KiB)": ",.1f",
    "device (s)": ".4f",
    "server (s)": ".4f",
    "peak memory (MiB)": ",.1f",
}
"""The formats of the numbers that `merge_medians` gives."""


def merge_medians(merges: pd.DataFrame) -> pd.DataFrame:
    """Compute what merging all experts costs one user.

    Args:
        merges: A line for each `MergeRecord`.

    Returns:
        A line for each row: the place of its merge, and medians over users, draws and seeds. Peak memory is a column
        where it was measured, on CUDA devices.
    """
    numbers = ["up", "down", "device_seconds", "server_seconds", "peak_bytes"]
    several = [name for name in ROW[:2] if merges[name].nunique() > 1]
    middle = merges.groupby([*several, "label", "where"], sort=False, observed=True)[numbers].median()
    middle[["up", "down"]] /= 2**10
    middle["peak_bytes"] /= 2**20
    table = middle.reset_index().set_axis([*several, "row", "merged on", *MERGE_FORMATS], axis="columns")
    return table.dropna(axis="columns", how="all")


def trainings(records: pd.DataFrame) -> pd.DataFrame:
    """Sum up the trainings.

    Args:
        records: A line for each `TrainingRecord`.

    Returns:
        A line for the experts of each training and seed: tasks, epochs, seconds, and mean best validation accuracy.
    """
    found = records.groupby(["experts", "seed"], as_index=False, sort=False)
    return found.agg(
        **{
            "tasks": ("task", "nunique"),
            "epochs": ("epochs", "sum"),
            "seconds": ("seconds", "sum"),
            "validation accuracy": ("val_accuracy", "mean"),
        }
    )


def adapting(draws: pd.DataFrame, costs: pd.DataFrame) -> pd.Series:
    """Compute the seconds that a device spends on adapting all tasks for one draw.

    Args:
        draws: The lines of `Reduced.draws`.
        costs: A line for each `CostRecord`.

    Returns:
        The mean for each row that adapts.
    """
    row = ["data", "model", "label"]
    spent = costs.groupby([*row, *PAIR], observed=True)["seconds"].sum().groupby(row, observed=True).mean()
    return draws[["row", *row]].drop_duplicates().merge(spent.reset_index(), on=row).set_index("row")["seconds"]


def _named(draws: pd.DataFrame) -> pd.DataFrame:
    several = [name for name in ROW[:-1] if draws[name].nunique() > 1]
    return draws.assign(row=draws[[*several, "label"]].agg(" / ".join, axis=1) if several else draws["label"])


def _hash(frame: pd.DataFrame) -> np.ndarray:
    # A name may be bytes that are no UTF-8, which pandas would refuse.
    return pd.util.hash_pandas_object(frame, index=False, encoding="unicode_escape").to_numpy()


def _results(R: np.ndarray) -> np.ndarray:
    """A number for each of the matrices, the same for the same accuracies."""
    return _hash(pd.DataFrame(R.reshape(len(R), -1)))
