"""Per-sample gradients by `torch.func`, for any network; they are slow, and serve where the layers' rules do not."""

from torch import Tensor, nn
from torch.func import grad, vmap

from dua_lightning.importance.rules import Power
from dua_lightning.importance.scalars import Scalar
from dua_lightning.params import Params, task_logits
from dua_lightning.tasks import Expert

CHUNK_BYTES = 64 * 2**20
"""Per-sample gradients held at once; a network whose single gradient is larger goes one sample at a time."""

ACTIVATIONS = 16
"""Bytes of activations for each byte of an image. This is a guess: nothing here knows what a network holds."""


class Vmapped:
    """Adds sums over samples of |gradient of scale * scalar|^power to totals, and holds the gradients of a few samples.

    Args:
        net: The network that computes with the expert's state.
        expert: The expert.
        scalar: The function of the logits that is differentiated.
        power: 1 for the absolute gradient of each sample, 2 for its square.
        totals: The sums, by the weights' names; they are changed.
        scale: A factor of the scalar.
    """

    def __init__(
        self, net: nn.Module, expert: Expert, scalar: Scalar, power: Power, totals: Params, scale: float = 1.0
    ) -> None:
        theta = {name: expert.state[name].detach() for name in totals}

        def value(theta: Params, x: Tensor, side: Tensor) -> Tensor:
            return scalar(task_logits(net, expert.state | theta, x[None], expert.task.classes)[0], side) * scale

        self.theta = theta
        self.gradients = vmap(grad(value), in_dims=(None, 0, 0))
        self.power = power
        self.totals = totals
        self.chunk = max(1, CHUNK_BYTES // sum(t.nbytes for t in theta.values()))

    def add(self, x: Tensor, sides: Tensor) -> None:
        """Add some samples.

        Args:
            x: Inputs `(n, ...)`.
            sides: Their side values `(n,)`.
        """
        chunk = max(1, min(self.chunk, CHUNK_BYTES // (ACTIVATIONS * max(1, x[0].nbytes))))
        for xs, s in zip(x.split(chunk), sides.split(chunk), strict=True):
            for name, g in self.gradients(self.theta, xs, s).items():
                self.totals[name] += g.to(self.totals[name].dtype).abs().pow(self.power).sum(0)
