"""Perceptrons by formulas: what modules do around so short a pass would be a good part of it."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from dua_lightning.nets.network import Network
from dua_lightning.params import Layout, State

BOXES = (nn.Sequential, Network)
"""They call their children in turn."""
PARTS = (nn.Linear, nn.ReLU, nn.Flatten, nn.Dropout, nn.Identity)
"""In evaluation mode the last two do nothing, and so does the third to rows of numbers."""


@dataclass(frozen=True)
class Link:
    """A linear layer, whose input goes through a rectifier first if it is `rectified`; `place` is among the modules."""

    layer: nn.Linear
    place: int
    weight: Tensor
    bias: Tensor | None
    rectified: bool


def chain_of(net: nn.Module, x: Tensor) -> list[nn.Module] | None:
    """The linear layers and rectifiers of `net` in the order of their calls, if inputs like `x` see nothing else."""
    found = list(_unfolded(net))
    parts = [module for module in found if type(module) not in BOXES]
    layers = [part for part in parts if type(part) in (nn.Linear, nn.ReLU)]
    weights = [weight for layer in layers for weight in layer._parameters.values() if weight is not None]
    if (
        not (layers and type(layers[-1]) is nn.Linear)
        or not (x.dim() == 2 or type(parts[0]) is nn.Flatten)
        or any(type(part) not in PARTS for part in parts)
        or any(type(part) is nn.Flatten and (part.start_dim, part.end_dim) != (1, -1) for part in parts)
        or any(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module) for module in found)
        or len({id(weight) for weight in weights}) < len(weights)
    ):
        return None
    return layers


def _unfolded(module: nn.Module) -> Iterator[nn.Module]:
    yield module
    if type(module) in BOXES:
        for child in module._modules.values():
            if child is not None:
                yield from _unfolded(child)


def linked(
    layers: list[nn.Module], modules: list[nn.Module], places: Layout, state: State, classes: slice
) -> list[Link]:
    """The layers of a chain with the weights of `state`, and of the last one the columns `classes`.

    `modules` and `places` are those of the network.
    """
    links: list[Link] = []
    rectified = False
    for layer in layers:
        if not isinstance(layer, nn.Linear):
            rectified = True
            continue
        place = modules.index(layer)
        prefix = f"{places.prefixes[place]}." if places.prefixes[place] else ""
        weight, bias = state.get(f"{prefix}weight", layer.weight), state.get(f"{prefix}bias", layer.bias)
        if layer is layers[-1]:
            weight, bias = weight[classes], None if bias is None else bias[classes]
        links.append(Link(layer, place, weight, bias, rectified))
        rectified = False
    return links


def forward(links: list[Link], x: Tensor) -> list[Tensor]:
    """Inputs of the links and, in the end, the output of the last one; all `(n, features)`, from `x` `(n, ...)`.

    Features lie in rows: the library multiplies faster where the longer side of a result is the inner one.
    """
    found = [x.flatten(1)]
    for link in links:
        if link.rectified:
            # The images are not ours.
            found[-1] = found[-1].relu_() if len(found) > 1 else found[-1].relu()
        y = (link.weight @ found[-1].mT).mT
        if link.bias is not None:
            y += link.bias
        found.append(y)
    return found
