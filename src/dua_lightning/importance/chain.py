"""Importances of perceptrons by formulas, for any other network by the engine of `persample`.

With the inputs `a_l` of the layers and the gradients `d_l` of their outputs, from the last layer to the first,
`d_(l-1) = (d_l W_l) [a_l > 0]`; the rule of linear layers makes sums of them.
"""

import torch
from torch import Tensor, nn

from dua_lightning.importance.job import Job
from dua_lightning.importance.rules import RULES
from dua_lightning.importance.scalars import DERIVATIVES
from dua_lightning.nets.chain import forward, linked
from dua_lightning.params import Params


class Chain:
    """Adds sums over samples of |gradient|^power to the job's totals, for a network that is a chain of `layers`."""

    def __init__(self, job: Job, layers: list[nn.Module]) -> None:
        self.job = job
        classes = job.expert.task.classes
        self.links = linked(layers, job.modules, job.places, job.expert.state, classes)
        self.totals: list[Params] = []
        for link in self.links:
            rows = classes if link is self.links[-1] else slice(None)
            own = job.places.weights[link.place]
            self.totals.append({name: job.totals[full][rows] for name, full in own.items()})
        self.first = next(index for index, totals in enumerate(self.totals) if totals)
        self.sample_bytes = sum(link.weight.shape[1] * link.weight.itemsize for link in self.links)

    def add(self, x: Tensor, sides: Tensor) -> None:
        """The samples `x` `(n, ...)` with their side values `(n,)`."""
        size = max(1, self.job.memory // self.sample_bytes)
        for start in range(0, len(x), size):
            self._add(x[start : start + size], sides[start : start + size])

    def measured_add(self, x: Tensor, sides: Tensor) -> int:
        """The same; returns the bytes of what it held."""
        self.add(x, sides)
        return len(x) * self.sample_bytes

    def _add(self, x: Tensor, sides: Tensor) -> None:
        *inputs, logits = forward(self.links, x)
        d = self._of_logits(logits, sides)
        if d is None:
            return
        for index in range(len(self.links) - 1, self.first - 1, -1):
            link, totals, a = self.links[index], self.totals[index], inputs.pop()
            if totals:
                RULES[nn.Linear].add_(totals, link.layer, {}, a, d, self.job.power)
            if index > self.first:
                d = (link.weight.mT @ d.mT).mT
                if link.rectified:
                    torch.ops.aten.threshold_backward.grad_input(d, a, 0, grad_input=d)

    def _of_logits(self, logits: Tensor, sides: Tensor) -> Tensor | None:
        """The gradient of the scalar for each sample's logits; `None` where it does not depend on them."""
        wide = logits.to(next(iter(self.job.totals.values())).dtype)
        if self.job.scalar in DERIVATIVES:
            return (DERIVATIVES[self.job.scalar](wide, sides) * self.job.scale).to(logits.dtype)
        leaf = wide.requires_grad_()
        with torch.enable_grad():
            values = self.job.scalar(leaf, sides)
        if not values.requires_grad:
            return None
        (d,) = torch.autograd.grad(values, leaf, torch.full_like(values, self.job.scale), allow_unused=True)
        return None if d is None else d.to(logits.dtype)
