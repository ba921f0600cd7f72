"""The folder of a personal model: weights, the files of each task, and a page that describes them."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from dua_lightning.data.listing import entries
from dua_lightning.data.preprocessing import Preprocessing
from dua_lightning.errors import InputError
from dua_lightning.params import batch_norms, fitted
from dua_lightning.personal.formats import WRITERS, lacking, write_task
from dua_lightning.personal.graphs import moments_path, statistics_path
from dua_lightning.personal.model import PersonalModel
from dua_lightning.personal.network import rebuild, refuse_foreign
from dua_lightning.progress import stage
from dua_lightning.report.characters import filename
from dua_lightning.store import tensorfile
from dua_lightning.store.files import TEMPORARY, file_sha256, refusing, sync, write_text
from dua_lightning.store.store import digest
from dua_lightning.store.tensorfile import Tensors, fingerprint
from dua_lightning.tasks import Task

FORMAT = 1
"""The version of the folder's form."""
ABOUT, WEIGHTS = "model.json", "model.safetensors"
"""The files that every folder has."""
FORMATS = ("safetensors", *WRITERS)
"""All formats; the first one is always written."""
SHARED = "shared/"
"""The beginning of the names of tensors that all tasks have in common."""
PIXELS = {"colours": "RGB", "layout": "NCHW", "resize": "bilinear, antialiased", "scale": "(pixels / 255 - mean) / std"}
"""Words in `model.json` on how a picture becomes an input, which are the same for all models."""


def save(model: PersonalModel, out: str | Path, formats: Sequence[str] | None = None) -> Path:
    """Write a model into a folder of its own, whole or not at all.

    A folder that holds the same model in the same formats already is kept; one of another model of this user is
    replaced.

    Args:
        model: The model.
        out: The folder in which the user's folder is made.
        formats: The formats: `safetensors`, which is written in any case, `pt2`, `onnx` and `pte`; by default all whose
            packages are installed.

    Returns:
        The user's folder.

    Raises:
        InputError: There is no such format, the network cannot be written in one, or the folder holds something else
            or cannot be written.
    """
    if formats is None:
        formats = [kind for kind in FORMATS if not lacking(kind)]
    if unknown := [kind for kind in formats if kind not in FORMATS]:
        raise InputError(f"{unknown[0]} is not a format; there are {', '.join(FORMATS)}")
    kinds = [kind for kind in WRITERS if kind in formats]
    folder = Path(out) / name(model.user)
    tensors = _tensors(model)
    about = _about(model, tensors, kinds)
    if _kept(folder, model.user, about):
        return folder
    steps = len(model.tasks) * len(kinds)
    with refusing(folder), stage(f"writing the model of user {model.user}", steps) as advance:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.", suffix=TEMPORARY) as beside:
            new, old = Path(beside) / "new", Path(beside) / "old"
            new.mkdir()
            tensorfile.save(new / WEIGHTS, tensors, {})
            for task in model.tasks:
                stored = _stored(tensors, _own(task))
                for kind in kinds:
                    write_task(kind, model, task, new / _file(task, kind), new / WEIGHTS, stored)
                    advance()
            for path in new.iterdir():
                sync(path)
            about["files"] = {path.name: file_sha256(path) for path in sorted(new.iterdir())}
            write_text(new / ABOUT, json.dumps({**about, "sha256": digest(about)}, indent=2) + "\n")
            if folder.exists():
                folder.rename(old)
            try:
                new.rename(folder)
            except OSError:
                if old.exists():
                    old.rename(folder)
                raise
            sync(folder.parent)
    return folder


def load(folder: str | Path, code: Sequence[str] = ()) -> PersonalModel:
    """Read a model from the folder that `save` has written.

    Args:
        folder: The user's folder.
        code: The names of packages besides this one whose functions may be called to build the network. Nothing is
            unpickled.

    Returns:
        The model.

    Raises:
        InputError: The folder is another one, damaged or of another version, or its network is made by other code.
    """
    folder = Path(folder)
    about = read(folder)
    tensors, _ = tensorfile.load(folder / WEIGHTS)
    try:
        refuse_foreign([about["network"], about["row"]["settings"]["phi"]], code)
        return _model(about, tensors)
    except InputError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(folder, f"{ABOUT} lacks something ({error})") from error


def _model(about: Mapping[str, Any], tensors: Tensors) -> PersonalModel:
    shape, categories, picture = tuple(about["input"]["shape"]), tuple(about["categories"]), about["input"]["picture"]
    return PersonalModel(
        user=about["user"],
        row=about["row"]["label"],
        tasks=tuple(Task(task["name"], slice(*task["columns"])) for task in about["tasks"]),
        categories=categories,
        shape=shape,
        net=rebuild(about["network"], shape, len(categories), about["seed"]),
        states={
            task["name"]: {name: tensors[key] for name, key in _stored(tensors, task["tensors"]).items()}
            for task in about["tasks"]
        },
        preprocessing=picture
        and Preprocessing(picture["size"], picture["crop"], tuple(picture["mean"]), tuple(picture["std"])),
        network=about["network"],
        seed=about["seed"],
        settings=about["row"]["settings"],
        provenance=about["provenance"],
    )


def read(folder: Path) -> dict[str, Any]:
    """Read the description of a model, and compare every file with its digest.

    Args:
        folder: The user's folder.

    Returns:
        The plain values of `model.json`.

    Raises:
        InputError: The folder is another one, damaged or of another version.
    """
    about = _described(folder)
    if about["format"] != FORMAT:
        raise InputError(f"{folder} has the form {about['format']}, and this program reads {FORMAT}; export it again")
    for file, expected in about["files"].items():
        try:
            found = file_sha256(folder / file)
        except OSError as error:
            raise _damaged(folder, f"{file} cannot be read ({error.strerror})") from error
        if found != expected:
            raise _damaged(folder, f"{file} is not what was written")
    return about


def size(folder: Path) -> int:
    """Sum up the sizes of the files of a folder.

    Args:
        folder: The user's folder.

    Returns:
        Bytes.
    """
    return sum(path.stat().st_size for path in folder.iterdir())


def name(text: str) -> str:
    """Give the name of the file or folder of a user or a task.

    Args:
        text: The user's or the task's name.

    Returns:
        A name that every system takes, and that leads to no other folder.

    Examples:
        >>> name("ann"), name("..")
        ('ann', '_..-3a6aebc0')
    """
    return filename(text if text.strip(". ") else f"/{text}")


def _own(task: Task) -> str:
    return f"task/{name(task.name)}/"


def _file(task: Task, kind: str) -> str:
    return f"{name(task.name)}.{kind}"


def _adaptive(task: Task) -> dict[str, str]:
    """The graphs of ONNX by which a network with batch normalisation adapts."""
    path = Path(_file(task, "onnx"))
    return {"statistics": statistics_path(path).name, "moments": moments_path(path).name}


def _tensors(model: PersonalModel) -> Tensors:
    """All states, each tensor once that is the same for all tasks; further names of a tied weight are left out."""
    states = [fitted(model.net, model.states[task.name]) for task in model.tasks]
    first, saved = states[0], model.states[model.tasks[0].name]
    same = {key for key in first if all(torch.equal(state[key], first[key]) for state in states)}
    found = {f"{SHARED}{key}": first[key] for key in first if key in same and key in saved}
    for task, state in zip(model.tasks, states, strict=True):
        found |= {f"{_own(task)}{key}": state[key] for key in state if key not in same and key in saved}
    # Two tensors may be views of one.
    return {key: tensor.detach().clone() for key, tensor in found.items()}


def _stored(tensors: Tensors, own: str) -> dict[str, str]:
    """The keys of the tensors of one task's state, by their names in the state."""
    return {key.removeprefix(prefix): key for prefix in (SHARED, own) for key in tensors if key.startswith(prefix)}


def _about(model: PersonalModel, tensors: Tensors, kinds: Sequence[str]) -> dict[str, Any]:
    """Everything that `model.json` says but for the digests of files."""
    made = model.preprocessing
    about = {
        "format": FORMAT,
        "user": model.user,
        "tasks": [
            {
                "name": task.name,
                "classes": list(model.classes(task.name)),
                "columns": [task.classes.start, task.classes.stop],
                "tensors": _own(task),
                **{kind: _file(task, kind) for kind in kinds},
                **(_adaptive(task) if "onnx" in kinds and batch_norms(model.net) else {}),
            }
            for task in model.tasks
        ],
        "input": {"shape": list(model.shape), "picture": made and {**asdict(made), **PIXELS}},
        "categories": list(model.categories),
        "network": dict(model.network),
        "seed": model.seed,
        "row": {"label": model.row, "settings": dict(model.settings)},
        "provenance": dict(model.provenance),
        "content": fingerprint(tensors),
    }
    # Tuples become lists, as they come back.
    plain: dict[str, Any] = json.loads(json.dumps(about, allow_nan=False))
    return plain


def _kept(folder: Path, user: str, about: Mapping[str, Any]) -> bool:
    """Whether the folder holds the same model; raises `InputError` for a folder that may not be replaced."""
    if not folder.exists():
        return False
    try:
        there = _described(folder)
    except InputError:
        # A damaged one is made anew.
        there = {"user": user, "files": {path.name: "" for path in folder.glob("*") if (folder / ABOUT).is_file()}}
    others = [path.name for path in entries(folder) if path.name not in (ABOUT, *there["files"])]
    if others or there["user"] != user:
        what = f"the model of user {there['user']}" if there["user"] != user else others[0]
        raise InputError(f"{folder} holds {what}, which the model of {user} would replace; choose another folder")
    try:
        return {**read(folder), "files": None, "sha256": None} == {**about, "files": None, "sha256": None}
    except InputError:
        return False


def _described(folder: Path) -> dict[str, Any]:
    """The values of `model.json`, if they are those that were written."""
    path = folder / ABOUT
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        expected = found.pop("sha256")
    except FileNotFoundError as error:
        raise InputError(f"{folder} has no {ABOUT}; name the folder of a user that dua export has written") from error
    except (OSError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        raise _damaged(folder, f"{ABOUT} cannot be read ({' '.join(str(error).split())})") from error
    if digest(found) != expected:
        raise _damaged(folder, f"{ABOUT} is not what was written")
    return found if isinstance(found, dict) else {}


def _damaged(folder: Path, reason: str) -> InputError:
    return InputError(f"{folder} cannot be used: {reason}; export the model again, or fetch it again")
