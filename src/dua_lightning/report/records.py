"""Tidy records: one row for each accuracy."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd

from dua_lightning.errors import InputError
from dua_lightning.store.files import write_text


@dataclass(frozen=True)
class Record:
    """One accuracy (percent) of one user's model: after learning task `after`, on task `on`, both counted from 1.

    `fidelity`: `paper`, or `released` for the behaviour of the authors' code.
    """

    data: str
    model: str
    method: str
    importance: str
    adapt: str
    label: str
    fidelity: str
    user: str
    iteration: int
    seed: int
    after: int
    on: int
    accuracy: float


COLUMNS = [f.name for f in fields(Record)]


@dataclass(frozen=True)
class CostRecord:
    """What one adaptation of one task's state cost on a user's device; see `adapt.cost.Cost` for the figures."""

    data: str
    model: str
    adapt: str
    label: str
    user: str
    iteration: int
    seed: int
    task: str
    trainable: int
    bytes: int
    seconds: float
    peak_bytes: float


def write(records: Sequence[Record | CostRecord], path: Path) -> None:
    """Write the records as CSV, whole or not at all; numbers with all their digits."""
    write_text(path, pd.DataFrame(records).to_csv(index=False))


def read(path: Path) -> pd.DataFrame:
    """The records of a run as a table. Raises `InputError` for a file that is not one."""
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        if missing := [name for name in COLUMNS if name not in frame]:
            raise ValueError(f"it has no column {missing[0]}")
        frame = frame.astype({"accuracy": float, "after": int, "on": int, "seed": int, "iteration": int})
        _check(frame)
    except (OSError, ValueError, OverflowError) as error:
        raise InputError(
            f"{path} is not a table of records ({' '.join(str(error).split())}); delete it and run again"
        ) from error
    return frame


def _check(frame: pd.DataFrame) -> None:
    if frame.empty:
        raise ValueError("it has no rows")
    if not frame["accuracy"].between(0, 100).all():
        raise ValueError("an accuracy is not between 0 and 100")
    # Every task has a row of its own, so that a number beyond their count is none of a task.
    if not (frame["on"].between(1, len(frame)) & frame["after"].between(1, frame["on"].max())).all():
        raise ValueError("the number of a task is not one that a run has")


def matrices(records: pd.DataFrame) -> Iterator[tuple[dict[str, object], np.ndarray]]:
    """Each user's accuracy matrix R `(N, N)` in percent, with what identifies it; NaN where there is no record.

    N is the number of tasks of the row.
    """
    keys = [name for name in COLUMNS if name not in ("after", "on", "accuracy")]
    of = records.groupby(keys, sort=False).ngroup().to_numpy()
    N = records.groupby(["data", "label"])["on"].transform("max").to_numpy()
    stack = np.full((of.max() + 1, N.max(), N.max()), np.nan)
    stack[of, records["after"] - 1, records["on"] - 1] = records["accuracy"]
    _, first = np.unique(of, return_index=True)
    # All at once: a table of many users has a matrix for each of them.
    for values, R, n in zip(records[keys].iloc[first].to_dict("records"), stack, N[first], strict=True):
        yield {str(name): value for name, value in values.items()}, R[:n, :n]
