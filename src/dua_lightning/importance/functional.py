"""Per-sample gradients of any network, by `torch.func` or by plain autograd: slow, for what the layers' rules miss."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from textwrap import shorten

import torch
from torch import Tensor, nn
from torch.func import grad, vmap

from dua_lightning.importance.rules import Power
from dua_lightning.importance.scalars import Scalar
from dua_lightning.params import Params, task_logits
from dua_lightning.tasks import Expert

CHUNK_BYTES = 64 * 2**20
"""Per-sample gradients held at once; a network whose single gradient is larger goes one sample at a time."""

ACCELERATOR_CHUNK_BYTES = 1024 * 2**20
"""The same on an accelerator, where passes of a few images take as long as those of many."""

ACTIVATIONS = 16
"""Bytes of activations for each byte of an image. This is a guess: nothing here knows what a network holds."""


@contextmanager
def unwarned() -> Iterator[None]:
    """Silence `vmap` within a block: it warns of every operation that it carries one sample after another."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop")
        yield


def differentiated(value: Callable[[Params], Tensor], theta: Params) -> Params:
    """Differentiate a function of weights by plain autograd, which takes whatever a network does.

    Args:
        value: Maps the weights to a number `()`.
        theta: The weights by name.

    Returns:
        The gradient for each weight; 0 where the number does not depend on it.
    """
    leaves = {name: t.detach().requires_grad_() for name, t in theta.items()}
    with torch.enable_grad():
        found = value(leaves)
    if not found.requires_grad:
        return {name: torch.zeros_like(t) for name, t in theta.items()}
    gradients = torch.autograd.grad(found, list(leaves.values()), materialize_grads=True)
    return dict(zip(leaves, gradients, strict=True))


class Functional:
    """Adds sums over samples of |gradient of scale * scalar|^power to totals, and holds the gradients of a few samples.

    `torch.func.vmap` carries several samples at once. Where it cannot, as for recurrent layers and for a forward pass
    that branches on values, plain autograd carries one at a time.

    Args:
        net: The network that computes with the expert's state.
        expert: The expert.
        scalar: The function of the logits that is differentiated.
        power: 1 for the absolute gradient of each sample, 2 for its square.
        totals: The sums, by the weights' names; they are changed.
        scale: A factor of the scalar.

    Attributes:
        obstacle: The reason why samples go one at a time, as torch has told it; empty while they do not.
    """

    def __init__(
        self, net: nn.Module, expert: Expert, scalar: Scalar, power: Power, totals: Params, scale: float = 1.0
    ) -> None:
        def value(theta: Params, x: Tensor, side: Tensor) -> Tensor:
            return scalar(task_logits(net, expert.state | theta, x[None], expert.task.classes)[0], side) * scale

        self.theta = {name: expert.state[name].detach() for name in totals}
        self.value = value
        self.together = vmap(grad(value), in_dims=(None, 0, 0))
        self.power = power
        self.totals = totals
        on_processor = all(t.is_cpu for t in self.theta.values())
        self.held = CHUNK_BYTES if on_processor else ACCELERATOR_CHUNK_BYTES
        self.chunk = max(1, self.held // sum(t.nbytes for t in self.theta.values()))
        self.obstacle = ""

    def add(self, x: Tensor, sides: Tensor) -> None:
        """Add some samples.

        Args:
            x: Inputs `(n, ...)`.
            sides: Their side values `(n,)`.
        """
        chunk = max(1, min(self.chunk, self.held // (ACTIVATIONS * max(1, x[0].nbytes))))
        for xs, s in zip(x.split(chunk), sides.split(chunk), strict=True):
            for gradients in self._gradients(xs, s):
                for name, g in gradients.items():
                    self.totals[name] += g.to(self.totals[name].dtype).abs().pow(self.power).sum(0)

    def _gradients(self, x: Tensor, sides: Tensor) -> Iterator[Params]:
        """The gradients of the samples, `(n, *shape of the weight)` for some of them at a time."""
        if not self.obstacle:
            try:
                with unwarned():
                    gradients = self.together(self.theta, x, sides)
            except Exception as error:
                # There is no common class. An error that is not of batching comes again below.
                self.obstacle = shorten(str(error) or type(error).__name__, 100, placeholder=" ..")
            else:
                yield gradients
                return
        for one, side in zip(x, sides, strict=True):
            gradients = differentiated(partial(self.value, x=one, side=side), self.theta)
            yield {name: g[None] for name, g in gradients.items()}
