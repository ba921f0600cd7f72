"""The network of a personal model, built again from its settings: never with weights, and never by foreign code."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from dua_lightning import adapt, nets
from dua_lightning.errors import InputError
from dua_lightning.run.build import targets
from dua_lightning.run.network import build_network

NETS = {f"{nets.__name__}.{name}" for name in nets.__all__}
"""The functions and classes of this package that make networks."""
KNOWN = NETS | {f"{adapt.__name__}.{name}" for name in adapt.__all__}
"""Those that the settings of a model may name."""


def portable(node: Mapping[str, Any]) -> dict[str, Any]:
    """Take from the settings of a network the weights that it started from, and the folder of this machine.

    Args:
        node: The settings, in plain values.

    Returns:
        The settings, by which nothing is read or downloaded; those of a network of one's own stay as they are.
    """
    if node["_target_"] not in NETS:
        return {**node}
    nothing = {"weights": "none", "folder": None}
    return {key: nothing.get(key, value) for key, value in node.items()}


def rebuild(node: Mapping[str, Any], shape: tuple[int, ...], classes: int, seed: int) -> nn.Module:
    """Build the network.

    Args:
        node: Its settings, in plain values.
        shape: The shape of one input.
        classes: The number of columns of the head.
        seed: The run's seed.

    Returns:
        The network, whose weights are of no account.

    Raises:
        InputError: It cannot be built here.
    """
    return build_network(portable(node), "model", shape, classes, seed)


def refuse_foreign(settings: Any, code: Sequence[str]) -> None:
    """Refuse settings that would call other functions than those of this package.

    Args:
        settings: Plain values within each other.
        code: The names of further packages whose functions may be called.

    Raises:
        InputError: The settings name another function.
    """
    for name in sorted(targets(settings)):
        if name not in KNOWN and name.partition(".")[0] not in code:
            package = name.partition(".")[0]
            raise InputError(
                f"the model is made by {name}, which is code from outside; if you trust it, allow it by its package, "
                f"{package} (--code {package}), or use the .pt2 or .onnx files, which need no code"
            )
