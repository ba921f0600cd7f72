"""The engine: exact means over samples of a function of each sample's own gradient, in bounded memory.

The absolute value (MAS) or the square (Fisher) is taken per sample, before any sum. Taking it of a batch's mean
gradient is another, biased quantity that depends on the batch size.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.func import grad, vmap

from dua_lightning.errors import InputError
from dua_lightning.params import Params, body_names, eval_mode, task_logits
from dua_lightning.tasks import Batch, Expert

CHUNK_BYTES = 64 * 2**20
"""Per-sample gradients held at once. At 64 MiB a chunk of the paper's MLP (0.25M weights) is 65 samples, enough to keep
the cores busy; a network whose single gradient is larger goes one sample at a time."""


def mean_over_samples(
    net: nn.Module,
    expert: Expert,
    data: Iterable[Batch],
    scalar: Callable[[Tensor, Tensor], Tensor],
    reduce_: Callable[[Tensor], Tensor],
    side: Callable[[Tensor, Tensor | None], Tensor] | None = None,
    chunk_bytes: int = CHUNK_BYTES,
) -> Params:
    """Mean over samples of `reduce_(d scalar / d theta)` for each parameter theta of the shared body.

    `scalar` maps one sample's logits `(classes of the task,)` and its side value `()` to `()`; `side` makes the side
    values `(n,)` of a batch from its inputs and labels (zeros without it); `reduce_` acts entry by entry on the
    gradients of some samples, `(n, *theta.shape)`, and may do so in place.

    Raises `InputError` where there is no sample or no weight.
    """
    names = body_names(net)
    if not names:
        raise InputError(f"this {type(net).__name__} has no weights outside its head, so none can be important")
    theta = {name: expert.state[name].detach() for name in dict.fromkeys(names.values())}
    chunk = max(1, chunk_bytes // sum(t.nbytes for t in theta.values()))
    total = {name: torch.zeros_like(t) for name, t in theta.items()}
    count = 0

    def value(theta: Params, x: Tensor, side: Tensor) -> Tensor:
        return scalar(task_logits(net, expert.state | theta, x[None], expert.task.classes)[0], side)

    gradients = vmap(grad(value), in_dims=(None, 0, 0))
    device = next(iter(theta.values())).device
    with eval_mode(net), torch.no_grad():
        for x, y in data:
            sides = torch.zeros(len(x)) if side is None else side(x, y)
            for xs, s in zip(x.split(chunk), sides.split(chunk), strict=True):
                for name, g in gradients(theta, xs.to(device), s.to(device)).items():
                    # The gradient of a weight that the output does not depend on is one zero, expanded.
                    total[name] += reduce_(g.contiguous()).sum(0)
            count += len(x)
    if not count:
        raise InputError(f"an importance needs at least one image of task {expert.task.name}, and the data have none")
    mean = {name: t / count for name, t in total.items()}
    return {name: mean[first] for name, first in names.items()}
