"""Facts of a run's benchmark and network that its records do not have, as a file beside them."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from dua_lightning.errors import InputError
from dua_lightning.store.files import write_text

FILE = "benchmark.json"
"""The file in a run's folder."""


@dataclass(frozen=True)
class TaskFacts:
    """A task by its names.

    Args:
        name: The task's name.
        categories: The names of its categories, in the order of its columns of the head.
    """

    name: str
    categories: tuple[str, ...]


@dataclass(frozen=True)
class Facts:
    """The benchmark and the network of a run.

    Args:
        tasks: The tasks in the order of learning.
        users: The number of users.
        shape: The shape of one input.
        prior_bytes: The size of one number for each weight of the body: that of a prior of one task, as it is sent.
        batch_norm: Whether the network has batch-norm layers with running statistics.
        rows: The labels of the rows in the order in which the method has them; none in the files of earlier versions.
    """

    tasks: tuple[TaskFacts, ...]
    users: int
    shape: tuple[int, ...]
    prior_bytes: int
    batch_norm: bool
    rows: tuple[str, ...] = ()


def write(facts: Facts, folder: Path) -> None:
    """Write the facts of a run.

    Args:
        facts: The facts.
        folder: The run's folder.

    Raises:
        InputError: The file cannot be written.
    """
    write_text(folder / FILE, json.dumps(asdict(facts), indent=2) + "\n")


def read(folder: Path) -> Facts | None:
    """Read the facts of a run.

    Args:
        folder: The run's folder.

    Returns:
        The facts; `None` where there is no file, as in the folders of earlier versions and of sweeps.

    Raises:
        InputError: The file is not what `write` writes.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return Facts(
            tuple(TaskFacts(str(task["name"]), tuple(map(str, task["categories"]))) for task in found["tasks"]),
            int(found["users"]),
            tuple(map(int, found["shape"])),
            int(found["prior_bytes"]),
            bool(found["batch_norm"]),
            tuple(map(str, found.get("rows", ()))),
        )
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({' '.join(str(error).split())}); delete it, or run again") from error


def task_names(several: Sequence[Facts | None]) -> tuple[str, ...]:
    """Name the tasks of several runs on one benchmark.

    Args:
        several: The facts of each run.

    Returns:
        The names in the order of learning; none where a run has no facts, or where runs call a task by two names.
    """
    names = [tuple(task.name for task in facts.tasks) if facts else () for facts in several]
    longest = max(names, key=len, default=())
    return longest if all(found and longest[: len(found)] == found for found in names) else ()
