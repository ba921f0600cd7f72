"""Gram matrices of a layer's inputs: the inputs of an output are its derivative by the weights."""

import copy
from functools import partial

import torch
from torch import Tensor, nn

from dua_lightning.tasks import Expert

Calls = list[tuple[str, nn.Module, Tensor]]
"""Uses of layers in a pass: the name of the weight, the layer and its input."""


def gram(net: nn.Module, expert: Expert, xs: Tensor) -> dict[str, Tensor]:
    """Mean over images of X^T X for each linear and convolution layer outside the head, one output at a time."""
    net = copy.deepcopy(net).eval()
    net.load_state_dict(expert.state)
    plain, calls = copy.deepcopy(net), []
    names: dict[int, str] = {}

    def note(name: str, prefix: str, _: nn.Module, args: tuple[Tensor], __: Tensor) -> None:
        calls.append((name, plain.get_submodule(prefix), args[0].detach()))

    for prefix, layer in net.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) and prefix != "head":
            name = names.setdefault(id(layer.weight), f"{prefix}.weight")
            layer.register_forward_hook(partial(note, name, prefix))
    sums: dict[str, Tensor] = {}
    for x in xs:
        calls.clear()
        net(x[None])
        for name, layer, seen in calls:
            sums[name] = sums.get(name, 0) + of_one(layer, seen) / len(xs)
    return sums


def of_one(layer: nn.Module, x: Tensor) -> Tensor:
    """X^T X of one image for each group, X from the first output channel of the group."""
    out, groups = layer(x)[0], getattr(layer, "groups", 1)
    channels = out.reshape(-1, out.shape[-1]).T if isinstance(layer, nn.Linear) else out.flatten(1)
    found = []
    for group in range(groups):
        first = group * len(channels) // groups
        rows = [torch.autograd.grad(one, layer.weight, retain_graph=True)[0][first] for one in channels[first]]
        found.append(sum(row.flatten()[:, None] * row.flatten() for row in rows))
    return torch.stack(found)
