"""`dua predict`: the classes of pictures by a personal model that `dua export` has written."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dua_lightning.commands.report import Parser
from dua_lightning.errors import InputError
from dua_lightning.progress import shown, stage
from dua_lightning.report.terminal import Terminal

if TYPE_CHECKING:
    from torch import Tensor

    from dua_lightning.personal import PersonalModel

AT_ONCE = 32
"""The number of pictures in a pass."""


def main(arguments: Sequence[str]) -> int:
    """Print the likeliest classes of each picture, for each task.

    Args:
        arguments: The words of the command line.

    Returns:
        The exit status: 2 if a picture could not be read, else 0.

    Raises:
        InputError: The model cannot be read or adapted, or its inputs do not come from picture files.
    """
    parser = Parser(prog="dua predict", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the folder of a user's model")
    parser.add_argument("pictures", nargs="+", type=Path, metavar="PICTURE", help="picture files")
    parser.add_argument("--task", metavar="TASK", help="one task alone (default: all)")
    parser.add_argument("--top", type=int, default=3, metavar="N", help="the number of classes (default: 3)")
    parser.add_argument("--json", action="store_true", help="print a list of objects, with probabilities from 0 to 1")
    parser.add_argument(
        "--adapt",
        type=Path,
        metavar="DIR",
        help="first adapt on the unlabelled pictures in DIR/TASK, or in DIR itself for one task",
    )
    parser.add_argument(
        "--code",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="a package outside this one that may build the network; may be given again",
    )
    given = parser.parse_args(arguments)
    if given.top < 1:
        raise InputError(f"--top {given.top} cannot be used: it is at least 1")
    errors = Terminal(stderr=True)
    with shown(errors):
        with stage("loading the model"):
            from dua_lightning.personal import load

            model = load(given.folder, given.code)
        if model.preprocessing is None:
            raise InputError(
                f"the inputs of {given.folder} do not come from picture files; use the model as a library, by "
                "dua_lightning.load(FOLDER).probabilities(TASK, x)"
            )
        tasks = [task.name for task in model.tasks] if given.task is None else [model.task(given.task).name]
        if given.adapt is not None:
            model = adapted(model, tasks, given.adapt, errors)
        found = list(predictions(model, tasks, given.pictures, given.top))
    if given.json:
        Terminal().print(json.dumps(found, indent=2))
    else:
        for line in lines(found):
            Terminal().print(line)
    unread = [one["error"] for one in found if "error" in one]
    for reason in unread:
        errors.print(f"error: {reason}")
    return 2 if unread else 0


def adapted(model: "PersonalModel", tasks: Sequence[str], folder: Path, errors: Terminal) -> "PersonalModel":
    """Adapt the states of some tasks on a folder of unlabelled pictures, and say on how many.

    Args:
        model: The model.
        tasks: The names of the tasks.
        folder: The folder, with a folder for each task; for a single task it may hold the pictures itself.
        errors: The console for words about it.

    Returns:
        The model with the adapted states.

    Raises:
        InputError: The folder has no pictures of these tasks, one of them cannot be read, or the network cannot be
            adapted.
    """
    from dua_lightning.data.listing import entries, form, shown

    own = {form(path.name): path for path in entries(folder) if path.is_dir()}
    places = {task: own[form(task)] for task in tasks if form(task) in own}
    if not places and len(tasks) == 1:
        places = {tasks[0]: folder}
    kind = type(model.adaptation()).__name__
    done = 0
    for task, place in places.items():
        paths = list(_files(place))
        if not paths:
            continue
        with stage(f"adapting task {task}"):
            batches = [(_read(model, paths[i : i + AT_ONCE]), None) for i in range(0, len(paths), AT_ONCE)]
            model = model.adapted(task, batches)
        errors.print(f"task {task} is adapted by {kind} on {len(paths)} pictures")
        done += 1
    if not done:
        raise InputError(
            f"{shown(folder)} has no pictures of {', '.join(tasks)}; put them there as TASK/*, or name one task by "
            "--task"
        )
    return model


def predictions(
    model: "PersonalModel", tasks: Sequence[str], pictures: Sequence[Path], top: int
) -> Iterator[dict[str, Any]]:
    """Find the likeliest classes of pictures.

    Args:
        model: The model.
        tasks: The names of the tasks.
        pictures: The picture files.
        top: The number of classes.

    Yields:
        For each picture its path, and `tasks`: for each task the classes and their probabilities, the likeliest first;
        or `error`: why it cannot be read.
    """
    import torch

    with stage("reading the pictures", len(pictures)) as advance:
        for start in range(0, len(pictures), AT_ONCE):
            some = pictures[start : start + AT_ONCE]
            read: list[Tensor] = []
            reasons: dict[int, str] = {}
            for place, path in enumerate(some):
                try:
                    read.append(_read(model, [path]))
                except InputError as error:
                    reasons[place] = str(error)
                advance()
            of_tasks = {task: iter(_best(model, task, torch.cat(read), top)) for task in tasks if read}
            for place, path in enumerate(some):
                if place in reasons:
                    yield {"picture": str(path), "error": reasons[place]}
                else:
                    yield {"picture": str(path), "tasks": {task: next(best) for task, best in of_tasks.items()}}


def lines(found: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Write predictions for people.

    Args:
        found: The predictions; pictures that could not be read are left out.

    Yields:
        A line for each picture, and one for each of its tasks.
    """
    for one in found:
        if "error" in one:
            continue
        yield one["picture"]
        for task, best in one["tasks"].items():
            yield f"  {task}: " + ", ".join(f"{of['class']} {100 * of['probability']:.1f} %" for of in best)


def _best(model: "PersonalModel", task: str, x: "Tensor", top: int) -> list[list[dict[str, Any]]]:
    names = model.classes(task)
    values, columns = model.probabilities(task, x).topk(min(top, len(names)))
    return [
        [{"class": names[column], "probability": value} for value, column in zip(*pair, strict=True)]
        for pair in zip(values.tolist(), columns.tolist(), strict=True)
    ]


def _read(model: "PersonalModel", paths: Sequence[Path]) -> "Tensor":
    assert model.preprocessing is not None
    return model.preprocessing(paths)


def _files(folder: Path) -> Iterator[Path]:
    """The files in a folder and in those below it."""
    from dua_lightning.data.listing import entries

    for path in entries(folder):
        if path.is_dir():
            yield from _files(path)
        else:
            yield path
