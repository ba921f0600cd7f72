"""Tidy records: one line for each accuracy, each adaptation, each training and each released prior.

A table of records may be longer than memory: `chunks` reads it in pieces.
"""

import csv
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from dua_lightning.errors import InputError
from dua_lightning.store.files import write_text

# Pandas would keep texts in pyarrow if that is installed, which takes no name of a file that is not UTF-8.
pd.set_option("mode.string_storage", "python")

CHUNK = 10_000
"""Lines of a table that are in memory at once: some megabytes."""


@dataclass(frozen=True)
class Record:
    """One accuracy of one user's model.

    Args:
        data: The benchmark's name.
        model: The network's name.
        method: The method's name.
        importance: The importance's name; `none` where the merge needs no prior.
        adapt: The adaptation's name.
        label: The row's name in tables.
        fidelity: `paper`, or `released` for the behaviour of the authors' code.
        prior: Who measured the prior: `user`, `server`, `other`, `oracle`, or `none` where the merge needs no prior.
        statistics: The step after the merge; `none` where the model keeps the batch-norm statistics of its training.
        uses: What the row uses of a user's own: `nothing`, `images`, or `labels` for images with their labels; `others`
            or `oracle` where another user or an oracle measured the prior.
        user: The user's name.
        iteration: The Monte-Carlo iteration, from 1.
        seed: The seed.
        after: The number of the last task that was learnt, from 1.
        on: The number of the task that is tested, from 1.
        accuracy: Percent.
    """

    data: str
    model: str
    method: str
    importance: str
    adapt: str
    label: str
    fidelity: str
    prior: str
    statistics: str
    uses: str
    user: str
    iteration: int
    seed: int
    after: int
    on: int
    accuracy: float


@dataclass(frozen=True)
class CostRecord:
    """The cost of one adaptation of one task's state on a user's device; see `adapt.cost.Cost`.

    Args:
        data: The benchmark's name.
        model: The network's name.
        adapt: The adaptation's name.
        label: The row's name in tables.
        user: The user's name.
        iteration: The Monte-Carlo iteration, from 1.
        seed: The seed.
        task: The task's name.
        statistics: The way in which batch-norm statistics were taken, such as `exact`; `none` where none were.
        trainable: The number of parameters with a gradient.
        bytes: The size of the tensors that the device must keep.
        seconds: Wall time.
        peak_bytes: How far memory rose on a CUDA device; NaN on others.
    """

    data: str
    model: str
    adapt: str
    label: str
    user: str
    iteration: int
    seed: int
    task: str
    statistics: str
    trainable: int
    bytes: int
    seconds: float
    peak_bytes: float


@dataclass(frozen=True)
class TrainingRecord:
    """One expert that was trained in this run, and not taken from the store.

    Args:
        seed: The seed.
        experts: The label of its training.
        task: The task's name.
        epochs: All epochs of its training.
        seconds: The seconds of the part of it in this run.
        val_accuracy: The best validation accuracy in percent; NaN where none was measured.
    """

    seed: int
    experts: str
    task: str
    epochs: int
    seconds: float
    val_accuracy: float


@dataclass(frozen=True)
class ReleaseRecord:
    """One prior that a user sent through a release; see `privacy.release`. Priors sent as measured have no line.

    Args:
        data: The benchmark's name.
        model: The network's name.
        adapt: The adaptation's name.
        label: The row's name in tables.
        user: The user's name.
        iteration: The Monte-Carlo iteration, from 1.
        seed: The seed.
        task: The task's name.
        release: The release's name.
        images: The number of images that the prior was measured on.
        plain: The bytes of the prior as it was measured.
        sent: The bytes that crossed the wire for it, without names and shapes.
        epsilon: The epsilon of differential privacy; NaN where there is no such guarantee.
        delta: The delta that goes with it.
    """

    data: str
    model: str
    adapt: str
    label: str
    user: str
    iteration: int
    seed: int
    task: str
    release: str
    images: int
    plain: int
    sent: int
    epsilon: float
    delta: float


@dataclass(frozen=True)
class MergeRecord:
    """The cost of merging all experts for one user; see `privacy.where.MergeCost`.

    Args:
        data: The benchmark's name.
        model: The network's name.
        adapt: The adaptation's name.
        label: The row's name in tables.
        user: The user's name.
        iteration: The Monte-Carlo iteration, from 1.
        seed: The seed.
        where: The place of the merge: `server`, `device` or `encrypted`.
        up: The bytes of numbers that the device sends for it.
        down: The bytes of numbers that the device is sent.
        device_seconds: The wall time of the device.
        server_seconds: The wall time of the server.
        peak_bytes: How far memory rose on a CUDA device; NaN on others.
    """

    data: str
    model: str
    adapt: str
    label: str
    user: str
    iteration: int
    seed: int
    where: str
    up: int
    down: int
    device_seconds: float
    server_seconds: float
    peak_bytes: float


AnyRecord = Record | CostRecord | TrainingRecord | ReleaseRecord | MergeRecord
"""A record of any kind."""
COLUMNS = [field.name for field in fields(Record)]
"""The columns of accuracies."""
KEYS = COLUMNS[: COLUMNS.index("after")]
"""The columns that identify one accuracy matrix: a row of the table, a user, a draw and a seed."""
NUMBERS = {"accuracy": float, "after": int, "on": int, "seed": int, "iteration": int}
"""The types of the columns that hold numbers."""
SIMULATE = "none"
"""The name of the choice of no simulated users."""
ADDED = ("prior", "statistics", "uses")
"""Columns that tables of earlier versions lack."""
PLAIN: dict[str, Any] = {"keep_default_na": False, "encoding_errors": "surrogateescape"}
"""Arguments of pandas that leave texts as they are: a user may be called `nan`, or by bytes that are no UTF-8."""


def benchmark(data: str, simulate: str = SIMULATE) -> str:
    """Name a benchmark in records: other users make another one.

    Args:
        data: The name of the choice of data.
        simulate: The name of the choice of simulated users.

    Returns:
        The name.

    Examples:
        >>> benchmark("transprior"), benchmark("transprior", "both")
        ('transprior', 'transprior, simulated both')
    """
    return data if simulate == SIMULATE else f"{data}, simulated {simulate}"


def write(records: Sequence[AnyRecord], path: Path) -> None:
    """Write records as CSV, whole or not at all; numbers have all their digits.

    Args:
        records: Records of one kind.
        path: The file.

    Raises:
        InputError: The file cannot be written.
    """
    header = [field.name for field in fields(records[0])]
    write_text(path, lines([header, *map(astuple, records)]))


def lines(rows: Iterable[Iterable[object]]) -> str:
    """Write lines of a table as CSV; a field may be any text, and NaN is an empty one.

    Args:
        rows: The fields of each line.

    Returns:
        The lines.
    """
    found: list[str] = []
    # With this end of lines the library quotes both of its characters in names, as every reader wants.
    writer = csv.writer(SimpleNamespace(write=found.append), lineterminator="\r\n")
    writer.writerows([_field(value) for value in row] for row in rows)
    return "".join(line.removesuffix("\r\n") + "\n" for line in found)


def _field(value: object) -> object:
    return "" if isinstance(value, float) and math.isnan(value) else value


def read(path: Path) -> pd.DataFrame:
    """Read all accuracies of a run as one table.

    Args:
        path: The file.

    Returns:
        A line for each record.

    Raises:
        InputError: The file is not a table of records.
    """
    return pd.concat(chunks(path), ignore_index=True)


def chunks(path: Path) -> Iterator[pd.DataFrame]:
    """Read the accuracies of a run in pieces; the lines of one accuracy matrix are never parted.

    Args:
        path: The file.

    Yields:
        Tables with a line for each record.

    Raises:
        InputError: The file is not a table of records.
    """
    try:
        rest = pd.DataFrame()
        with pd.read_csv(path, dtype=str, **PLAIN, chunksize=CHUNK) as pieces:
            for piece in pieces:
                if missing := [name for name in COLUMNS if name not in piece and name not in ADDED]:
                    raise ValueError(f"it has no column {missing[0]}")
                frame = pd.concat([rest, _filled(piece)[COLUMNS].astype(NUMBERS)], ignore_index=True)
                # The last matrix of a piece may go on in the next one.
                starts = (frame[KEYS] != frame[KEYS].shift()).any(axis=1)
                cut = int(np.flatnonzero(starts)[-1])
                if cut:
                    yield _checked(frame[:cut])
                rest = frame[cut:]
        yield _checked(rest)
    except (OSError, ValueError, OverflowError) as error:
        raise InputError(
            f"{path} is not a table of records ({' '.join(str(error).split())}); delete it and run again"
        ) from error


def _filled(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns of `ADDED`, where the table has none, by the methods and adaptations of the versions without them."""
    if set(ADDED) <= set(frame):
        return frame
    merged = frame["method"].isin(("racl", "imm", "mean_imm"))
    given = frame["label"].str.extract(r", (user|server)'s priors")[0]
    prior = given.fillna(frame["method"].map({"racl": "user", "imm": "server"})).fillna("none")
    prior = prior.where(frame["importance"] != "none", "none")
    statistics = frame["label"].str.extract(r", (\w+) statistics")[0]
    supervised = frame["adapt"].isin(("finetune", "adabn_s", "adabn_s_released"))
    own = prior == "user"
    uses = np.select(
        [supervised | (own & (frame["importance"] == "fim")), own | (frame["adapt"] != "none")],
        ["labels", "images"],
        "nothing",
    )
    return frame.assign(prior=prior, statistics=statistics.fillna(merged.map({True: "last", False: "none"})), uses=uses)


def _checked(frame: pd.DataFrame) -> pd.DataFrame:
    if frame.empty:
        raise ValueError("it has no rows")
    if not frame["accuracy"].between(0, 100).all():
        raise ValueError("an accuracy is not between 0 and 100")
    # Every task has a row of its own, so that a number beyond their count is none of a task.
    if not (frame["on"].between(1, len(frame)) & frame["after"].between(1, frame["on"].max())).all():
        raise ValueError("the number of a task is not one that a run has")
    return frame


def matrices(records: pd.DataFrame) -> Iterator[tuple[pd.DataFrame, np.ndarray]]:
    """Make the accuracy matrices of a table of records.

    Args:
        records: A line for each record.

    Yields:
        For each number N of tasks that rows have: a table of `KEYS` with one line for each matrix, and the matrices R
        `(n, N, N)` in percent, NaN where there is no record.
    """
    tasks = records.groupby(["data", "label"])["on"].transform("max")
    for N, part in records.groupby(tasks, sort=False):
        of = part.groupby(KEYS, sort=False).ngroup().to_numpy()
        R = np.full((of.max() + 1, N, N), np.nan)
        R[of, part["after"] - 1, part["on"] - 1] = part["accuracy"]
        yield part[KEYS].drop_duplicates(ignore_index=True), R


def table(path: Path, kind: type[AnyRecord]) -> pd.DataFrame:
    """Read the records of another kind than `Record`, which `chunks` reads.

    Args:
        path: The file; where there is none, the table has no lines.
        kind: The kind of records.

    Returns:
        A line for each record.

    Raises:
        InputError: The file cannot be read.
    """
    columns, texts = [field.name for field in fields(kind)], [field.name for field in fields(kind) if field.type is str]
    # A table with lines for each user is long, and repeats the same words.
    category = dict.fromkeys(texts, "category") if "user" in texts else {}
    if not path.exists():
        return pd.DataFrame(columns=columns).astype(category)
    nothing = {name: ["", "nan"] for name in columns if name not in texts}
    try:
        frame: pd.DataFrame = pd.read_csv(path, **PLAIN, na_values=nothing, dtype=dict.fromkeys(texts, str))
        if missing := [name for name in columns if name not in frame]:
            raise ValueError(f"it has no column {missing[0]}")
        real = {name: "float" for name in columns if name.endswith(("seconds", "bytes", "accuracy"))}
        return frame.astype(real | category)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read ({' '.join(str(error).split())}); run again, or name another run"
        ) from error
