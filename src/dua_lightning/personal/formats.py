"""Files of one task's network that need none of this package: `.pt2` by torch.export, ONNX, and ExecuTorch's `.pte`."""

import warnings
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from dua_lightning.errors import InputError
from dua_lightning.personal.graphs import write as write_onnx
from dua_lightning.personal.model import PersonalModel
from dua_lightning.personal.parity import examples, require_parity
from dua_lightning.tasks import Task

Writer = Callable[[PersonalModel, Task, Path, Path, Mapping[str, str]], None]
"""Arguments of `write_task` but for the format."""
NEEDED = {"onnx": ("onnx", "onnxruntime", "onnxscript"), "pte": ("executorch",)}
"""The packages that write a format, and read it back."""
EXTRAS = {"onnx": "export", "pte": "executorch"}
"""The extra of this package that installs them."""

MOST = 32
"""The largest batch of a `.pte` file, for which its memory is planned.

Traced with fewer than 16 inputs, programs of ExecuTorch 1.5.1 take at most 15, whatever the dimension allows: on the
way PyTorch asks whether a convolution has 16.
"""


def lacking(kind: str) -> list[str]:
    """Name the packages that a format needs and that are not installed.

    Args:
        kind: The format.

    Returns:
        The names.
    """
    return [package for package in NEEDED.get(kind, ()) if find_spec(package) is None]


def write_pt2(model: PersonalModel, task: Task, path: Path, *_: object) -> None:
    """Write a network as an `ExportedProgram` that takes batches of any size.

    Args:
        model: The model.
        task: The task.
        path: The file.

    Raises:
        InputError: The file computes something else than the network.
    """
    torch.export.save(_program(model, task, Dim("batch", min=1), examples(model.shape)), path)
    require_parity(model.module(task.name), torch.export.load(path).module(), examples(model.shape))


def write_pte(model: PersonalModel, task: Task, path: Path, *_: object) -> None:
    """Write a network as a program of ExecuTorch, whose operators XNNPACK computes where it has them.

    It takes batches of up to `MOST` inputs.

    Args:
        model: The model.
        task: The task.
        path: The file.

    Raises:
        InputError: The file computes something else than the network.
    """
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from executorch.runtime import Runtime

    x = examples(model.shape, MOST)
    program = _program(model, task, Dim("batch", min=1, max=MOST), x)
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    path.write_bytes(lowered.to_executorch().buffer)
    method = Runtime.get().load_program(path).load_method("forward")

    def written(x: Tensor) -> Tensor:
        # The next call overwrites its result.
        logits: Tensor = method.execute([x])[0].clone()
        return logits

    require_parity(model.module(task.name), written, x)


WRITERS: dict[str, Writer] = {"pt2": write_pt2, "onnx": write_onnx, "pte": write_pte}
"""The formats of one task's network, which are also the ends of the files' names."""


def write_task(
    kind: str, model: PersonalModel, task: Task, path: Path, weights: Path, stored: Mapping[str, str]
) -> None:
    """Write the network of a task in one of the formats.

    Args:
        kind: The format.
        model: The model.
        task: The task.
        path: The file.
        weights: The file of the model's tensors, in the same folder.
        stored: The names that the tensors of the task's state have in that file, by their names in the state.

    Raises:
        InputError: The packages are not installed, it cannot be written so, or it computes something else.
        OSError: The file cannot be written.
    """
    if lacking(kind):
        raise InputError(
            f"{kind} needs the packages {', '.join(NEEDED[kind])}; pip install 'dua_lightning[{EXTRAS[kind]}]'"
        )
    try:
        # The exporters warn of their own code.
        with warnings.catch_warnings(action="ignore"), torch.no_grad():
            WRITERS[kind](model, task, path, weights, stored)
    except (InputError, OSError):
        raise
    # Tracing a network of anybody's may raise anything.
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(
            f"this {type(model.net).__name__} cannot be written as {kind} ({reason}); leave {kind} out of the formats"
        ) from error


def _program(model: PersonalModel, task: Task, batch: Dim, x: Tensor) -> ExportedProgram:
    return torch.export.export(model.module(task.name), (x,), dynamic_shapes=({0: batch},))
