"""The estimator of the authors' release: a function of the gradient of each batch's mean.

It depends on the batch size: at batches of 20 it is about 1 / 20 of the per-sample FIM of sampled labels, and a
seventh to an eleventh of that of the data's labels (`experiments/estimator_bias`). It is here to be compared.
"""

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn

from dua_lightning.errors import InputError
from dua_lightning.importance.functional import differentiated
from dua_lightning.importance.rules import Power, add_power_
from dua_lightning.importance.scalars import Scalar
from dua_lightning.params import Params, body_names, device_of, eval_mode, fitted, moved, task_logits
from dua_lightning.tasks import Batch, Expert

BATCH = 20
"""Images of a batch in the release."""


def mean_over_batches(
    net: nn.Module,
    expert: Expert,
    data: Iterable[Batch],
    scalar: Scalar,
    power: Power,
    side: Callable[[Tensor, Tensor | None], Tensor] | None = None,
) -> Params:
    """Compute the mean over batches of 20 of `|d (mean over the batch of scalar) / d theta|^power`.

    The batches are cut from the data in their order; a last, shorter one counts as much as the others, as in the
    release.

    Args:
        net: As of `persample.mean_over_samples`, as are the other arguments.
        expert: The expert.
        data: The data.
        scalar: The function of the logits that is differentiated.
        power: 1 or 2.
        side: The side values.

    Returns:
        A tensor for each weight of the body, in float32, or in the weights' type where that is wider.

    Raises:
        InputError: There is no image, or the expert's state is not one of this network.
    """
    names = body_names(net)
    state = fitted(net, expert.state)
    theta = {name: state[name].detach() for name in dict.fromkeys(names.values())}
    device = device_of(theta)
    batches = [(x, torch.zeros(len(x)) if side is None else side(x, y)) for x, y in data]
    if not sum(len(x) for x, _ in batches):
        raise InputError(f"an importance needs at least one image of task {expert.task.name}, and the data have none")
    xs, sides = (torch.cat(column).split(BATCH) for column in zip(*batches, strict=True))

    def value(theta: Params, x: Tensor, side: Tensor) -> Tensor:
        return scalar(task_logits(net, state | theta, x, expert.task.classes), side).mean()

    total = {name: torch.zeros_like(t, dtype=torch.promote_types(t.dtype, torch.float32)) for name, t in theta.items()}
    with eval_mode(net), torch.no_grad():
        for x, s in zip(xs, sides, strict=True):
            for name, g in differentiated(partial(value, x=moved(x, device), side=moved(s, device)), theta).items():
                add_power_(total[name], g.contiguous(), power)
    return {name: total[first] / len(xs) for name, first in names.items()}
