"""Files of one task's network that need none of this package: `.pt2` by torch.export, and ONNX."""

import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim

from dua_lightning.errors import InputError

OPSET = 18
"""The version of ONNX's operators: the least that torch's exporter writes as they are."""
NEEDED = ("onnx", "onnxscript")
"""The packages that write ONNX."""
TOLERANCE = 1e-4
"""Logits of a written file differ by at most so much, relative to those above 1."""
EXAMPLES = 3
"""The number of inputs of the batch that networks are traced with; a number above 1, which would be taken as fixed."""


def onnx_can_be_written() -> bool:
    """Tell whether the packages that write ONNX are installed.

    Returns:
        Whether they are.
    """
    return all(find_spec(package) is not None for package in NEEDED)


def write_pt2(net: nn.Module, shape: tuple[int, ...], path: Path) -> None:
    """Write a network as an `ExportedProgram` that takes batches of any size.

    Args:
        net: The network, in evaluation mode.
        shape: The shape of one input.
        path: The file.

    Raises:
        InputError: torch.export cannot trace the network, or the file computes something else.
    """
    x = _examples(shape)
    program = torch.export.export(net, (x,), dynamic_shapes=({0: Dim("batch", min=1)},))
    torch.export.save(program, path)
    _compare(net, torch.export.load(path).module(), x)


def write_onnx(net: nn.Module, shape: tuple[int, ...], path: Path) -> None:
    """Write a network as ONNX that takes batches of any size; where onnxruntime is installed, its answers are compared.

    Args:
        net: The network, in evaluation mode.
        shape: The shape of one input.
        path: The file, with input `input` and output `logits`.

    Raises:
        InputError: The packages are not installed, torch.onnx cannot write the network, or the file computes something
            else.
    """
    if not onnx_can_be_written():
        raise InputError(f"ONNX needs the packages {' and '.join(NEEDED)}; pip install 'dua_lightning[export]'")
    x = _examples(shape)
    torch.onnx.export(
        net,
        (x,),
        path,
        dynamo=True,
        dynamic_shapes=({0: Dim("batch", min=1)},),
        input_names=["input"],
        output_names=["logits"],
        opset_version=OPSET,
        external_data=False,
        verbose=False,
    )
    if find_spec("onnxruntime") is not None:
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        _compare(net, lambda x: torch.from_numpy(session.run(None, {"input": x.numpy()})[0]), x)


WRITERS: dict[str, Callable[[nn.Module, tuple[int, ...], Path], None]] = {"pt2": write_pt2, "onnx": write_onnx}
"""The formats of one task's network, which are also the ends of the files' names."""


def write_task(kind: str, net: nn.Module, shape: tuple[int, ...], path: Path) -> None:
    """Write a network in one of the formats.

    Args:
        kind: The format.
        net: The network, in evaluation mode.
        shape: The shape of one input.
        path: The file.

    Raises:
        InputError: It cannot be written so.
        OSError: The file cannot be written.
    """
    try:
        # The exporters warn of their own code.
        with warnings.catch_warnings(action="ignore"), torch.no_grad():
            WRITERS[kind](net, shape, path)
    except (InputError, OSError):
        raise
    # Tracing a network of anybody's may raise anything.
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(
            f"this {type(net).__name__} cannot be written as {kind} ({reason}); leave {kind} out of the formats"
        ) from error


def _examples(shape: tuple[int, ...]) -> Tensor:
    """Inputs that are distributed as normalised ones are."""
    return torch.randn(EXAMPLES, *shape, generator=torch.Generator().manual_seed(0))


def _compare(net: nn.Module, written: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Refuse a file whose logits are others, of one input or of several."""
    for some in (x, x[:1]):
        expected = net(some)
        worst = float(((written(some) - expected).abs() / expected.abs().clamp(min=1)).max())
        if not worst <= TOLERANCE:
            raise InputError(f"the logits of the file and of the network differ by {worst:.1g}")
