"""Perceptrons by formulas: what modules and autograd do around so short a pass would be a good part of it.

A chain of linear layers and rectifiers is served here, any other network by the engine of `persample`. With the inputs
`a_l` of the layers and the gradients `d_l` of their outputs, from the last layer to the first,
`d_(l-1) = (d_l W_l) [a_l > 0]`; the rule of linear layers makes sums of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dua_lightning.importance.job import Job
from dua_lightning.importance.rules import RULES
from dua_lightning.importance.scalars import DERIVATIVES
from dua_lightning.nets import Network
from dua_lightning.params import Params

BOXES = (nn.Sequential, Network)
"""They call their children in turn."""
PARTS = (nn.Linear, nn.ReLU, nn.Flatten, nn.Dropout, nn.Identity)
"""In evaluation mode the last two do nothing, and so does the third to rows of numbers."""


def chain_of(net: nn.Module, x: Tensor) -> list[nn.Module] | None:
    """The linear layers and rectifiers of `net` in the order of their calls, if inputs like `x` see nothing else."""
    found = list(_unfolded(net))
    parts = [module for module in found if type(module) not in BOXES]
    layers = [part for part in parts if type(part) in (nn.Linear, nn.ReLU)]
    weights = [weight for layer in layers for weight in layer._parameters.values() if weight is not None]
    if (
        not (layers and type(layers[-1]) is nn.Linear and nn.Linear in RULES)
        or not (x.dim() == 2 or type(parts[0]) is nn.Flatten)
        or any(type(part) not in PARTS for part in parts)
        or any(type(part) is nn.Flatten and (part.start_dim, part.end_dim) != (1, -1) for part in parts)
        or any(module._forward_hooks or module._forward_pre_hooks for module in found)
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


@dataclass(frozen=True)
class _Link:
    """A linear layer, whose input goes through a rectifier first if it is `rectified`."""

    layer: nn.Module
    weight: Tensor
    bias: Tensor | None
    totals: Params
    rectified: bool


class Chain:
    """Adds sums over samples of |gradient|^power to the job's totals, for a network that is a chain of `layers`."""

    def __init__(self, job: Job, layers: list[nn.Module]) -> None:
        self.job = job
        self.links: list[_Link] = []
        rectified = False
        for layer in layers:
            if type(layer) is nn.ReLU:
                rectified = True
                continue
            last = layer is layers[-1]
            rows = job.expert.task.classes if last else slice(None)
            place = job.modules.index(layer)
            prefix, own = job.places.prefixes[place], job.places.weights[place]
            weight, bias = (job.expert.state.get(f"{prefix}.{name}" if prefix else name) for name in ("weight", "bias"))
            assert weight is not None
            totals = {name: job.totals[full][rows] for name, full in own.items()}
            self.links.append(_Link(layer, weight[rows], None if bias is None else bias[rows], totals, rectified))
            rectified = False
        self.first = next(index for index, link in enumerate(self.links) if link.totals)
        self.sample_bytes = sum(link.weight[0].nbytes for link in self.links)

    def add(self, x: Tensor, sides: Tensor) -> None:
        """The samples `x` `(n, ...)` with their side values `(n,)`."""
        size = max(1, self.job.memory // self.sample_bytes)
        for start in range(0, len(x), size):
            self._add(x[start : start + size].flatten(1), sides[start : start + size])

    def measured_add(self, x: Tensor, sides: Tensor) -> int:
        """The same; returns the bytes of what it held."""
        self.add(x, sides)
        return len(x) * self.sample_bytes

    def _add(self, x: Tensor, sides: Tensor) -> None:
        inputs: list[Tensor] = []
        y = x
        for link in self.links:
            if link.rectified:
                # The images are not ours.
                y = y.relu_() if inputs else y.relu()
            inputs.append(y)
            y = nn.functional.linear(y, link.weight, link.bias)
        d = self._of_logits(y, sides)
        if d is None:
            return
        for index in range(len(self.links) - 1, self.first - 1, -1):
            link, a = self.links[index], inputs.pop()
            if link.totals:
                RULES[nn.Linear].add_(link.totals, link.layer, {}, a, d, self.job.power)
            if index > self.first:
                d = d @ link.weight
                if link.rectified:
                    torch.ops.aten.threshold_backward.grad_input(d, a, 0, grad_input=d)

    def _of_logits(self, logits: Tensor, sides: Tensor) -> Tensor | None:
        """The gradient of the scalar for each sample's logits; `None` where it does not depend on them."""
        wide = logits.to(next(iter(self.job.totals.values())).dtype)
        if self.job.scalar in DERIVATIVES:
            return DERIVATIVES[self.job.scalar](wide, sides).to(logits.dtype)
        leaf = wide.requires_grad_()
        with torch.enable_grad():
            values = self.job.scalar(leaf, sides)
        if not values.requires_grad:
            return None
        (d,) = torch.autograd.grad(values, leaf, torch.ones_like(values), allow_unused=True)
        return None if d is None else d.to(logits.dtype)
