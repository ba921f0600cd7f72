"""The results of a run that go to its logger: figures of merit, accuracies as tasks are learnt, and tables.

Their names are here too, which a dashboard finds them by.
"""

import math
from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from dua_lightning.report import ledger, reduce
from dua_lightning.report.characters import filename
from dua_lightning.report.reduce import Reduced

MERITS = tuple(reduce.MERITS)
"""The figures of merit."""
LEARNT, SO_FAR, ON = "tasks_learnt", "accuracy_so_far", "accuracy_on"
"""The number of tasks learnt, and over it the mean accuracy on them, and `accuracy_on/TASK`."""
ROWS, USERS, MATRIX, LEDGER, COSTS, RECORDS = "rows", "users", "accuracy_matrix", "ledger", "costs", "records"
"""The tables."""


def merits(reduced: Reduced) -> dict[str, float]:
    """Give the figures of merit that are defined, as means over seeds.

    Args:
        reduced: The reduced records.

    Returns:
        `ROW/average_accuracy` (percent) and `ROW/forgetting` (points); a single row's are there without `ROW/` too.
    """
    rows = reduce.over_seeds(reduced.draws)[list(MERITS)]
    named = {f"{row}/{merit}": float(value) for row, line in rows.iterrows() for merit, value in line.items()}
    if len(rows) == 1:
        named |= {str(merit): float(value) for merit, value in rows.iloc[0].items()}
    return {name: value for name, value in named.items() if not math.isnan(value)}


def learning(reduced: Reduced) -> Iterator[tuple[int, dict[str, float]]]:
    """Give the accuracies of each row after each task, averaged over users, iterations and seeds.

    Args:
        reduced: The reduced records.

    Yields:
        The number of tasks learnt, and in percent `ROW/accuracy_so_far`, the mean over these tasks, and
        `ROW/accuracy_on/TASK` of each; a single row's are without `ROW/`.
    """
    matrices = reduced.matrices
    tasks = [filename(name) for name in reduced.task_names]
    for learnt in range(1, len(tasks) + 1):
        found: dict[str, float] = {}
        for row, R in matrices.items():
            prefix = f"{filename(row)}/" if len(matrices) > 1 else ""
            accuracies = R[learnt - 1 : learnt, :learnt].ravel()
            # Joint has a model after the last task alone.
            if len(accuracies) and not np.isnan(accuracies).any():
                found[f"{prefix}{SO_FAR}"] = float(accuracies.mean())
                found |= {f"{prefix}{ON}/{tasks[j]}": float(value) for j, value in enumerate(accuracies)}
        if found:
            yield learnt, found


def tables(reduced: Reduced, costs: pd.DataFrame) -> Mapping[str, pd.DataFrame]:
    """Make the tables that have lines.

    Args:
        reduced: The reduced records.
        costs: A line for each `CostRecord`.

    Returns:
        By their names: the table of rows, every user's figures of merit, the mean accuracy matrices, the ledger of each
        benchmark and network, and the median costs of each adaptation.
    """
    ledgers = {names: ledger.ledger(draws) for names, draws in reduced.draws.groupby(["data", "model"], sort=False)}
    found = {
        ROWS: reduce.rows(reduced.draws),
        USERS: reduced.draws,
        MATRIX: reduce.entries(reduced),
        LEDGER: pd.concat(ledgers, names=["data", "model"]).reset_index(["data", "model"]),
        COSTS: reduce.cost_medians(costs) if len(costs) else costs,
    }
    return {name: table for name, table in found.items() if len(table)}
