"""Pictures from a whole prior, by matching it with the prior of guessed pictures.

[Zhu2019] L. Zhu, Z. Liu, S. Han. Deep leakage from gradients. NeurIPS 2019.
[Geiping2020] J. Geiping, H. Bauermeister, H. Droege, M. Moeller. Inverting gradients: how easy is it to break privacy
in federated learning? NeurIPS 2020.

Gradients are inverted by a search for pictures whose gradients are the same [Zhu2019]; the cosine as distance, and a
small total variation, help it [Geiping2020]. Here the pictures' own importances are compared, |g| or g^2.
"""

import torch
from torch import Tensor
from torch.func import grad, vmap

from dua_lightning.importance import Averaged, averaged
from dua_lightning.importance.averaged import Level
from dua_lightning.importance.functional import unwarned
from dua_lightning.importance.scalars import log_likelihood, squared_norm
from dua_lightning.params import Params, body_names, eval_mode, fitted, task_logits
from dua_lightning.privacy.attacks.base import Known

RATE = 0.1
"""The rate of Adam, of [Geiping2020]; inputs have a standard deviation of about 1. It falls to 0 as a cosine."""
SIZE = 0.1
"""The weight of a tensor's size beside its direction."""


def invert(
    known: Known,
    shape: tuple[int, ...],
    stream: torch.Generator,
    labels: Tensor | None = None,
    steps: int = 300,
    smoothness: float = 1e-3,
    starts: int = 1,
) -> Tensor:
    """Search for pictures whose prior is the one that was sent.

    All n pictures are searched at once, from independent normal numbers, for the least distance of the two priors (of
    their square roots for the FIM) plus a small total variation. The distance is a mean over tensors. Small networks
    and few pictures alone are within reach: each step computes n gradients and differentiates them.

    Args:
        known: What the attacker knows.
        shape: `(channels, height, width)` of one picture.
        stream: Random numbers for the start.
        labels: `(n,)` the labels, for the FIM. The attacker is given them, since there are few to try.
        steps: Steps of Adam.
        smoothness: The weight of the total variation.
        starts: Searches, of which the one with the least distance counts.

    Returns:
        `(n, *shape)` the pictures.
    """
    net, expert = known.net, known.expert
    level: Level = known.importance.level if isinstance(known.importance, Averaged) else "weight"
    state = {name: tensor.detach() for name, tensor in fitted(net, expert.state).items()}
    names = [name for name in dict.fromkeys(body_names(net).values()) if name in known.prior]
    theta = {name: state[name] for name in names}
    target = {name: known.prior[name].detach() for name in names}
    scalar = log_likelihood if known.squares else squared_norm
    sides = expert.task.columns(labels) if labels is not None else torch.zeros(known.images, dtype=torch.long)

    def value(weights: Params, x: Tensor, side: Tensor) -> Tensor:
        return scalar(task_logits(net, state | weights, x[None], expert.task.classes)[0], side)

    def prior_of(x: Tensor) -> Params:
        gradients = vmap(grad(value), in_dims=(None, 0, 0))(theta, x, sides)
        power = 2 if known.squares else 1
        return averaged({name: g.abs().pow(power).mean(0) for name, g in gradients.items()}, level)

    def distance(x: Tensor) -> Tensor:
        found = prior_of(x)
        return torch.stack([_distance(found[name], target[name], known.squares) for name in names]).mean()

    best, least = torch.empty(0), torch.inf
    with eval_mode(net), unwarned():
        for _ in range(starts):
            x = torch.randn((known.images, *shape), generator=stream).to(next(iter(theta.values()))).requires_grad_()
            optimizer = torch.optim.Adam([x], RATE)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
            for _ in range(steps):
                optimizer.zero_grad()
                (distance(x) + smoothness * _total_variation(x)).backward()
                optimizer.step()
                schedule.step()
            reached = float(distance(x.detach()))
            if reached < least:
                best, least = x.detach(), reached
    return best


def _distance(found: Tensor, target: Tensor, squares: bool) -> Tensor:
    """1 minus the cosine, and the squared log of the ratio of norms, which is all that a tensor of one number tells."""
    tiny = torch.finfo(found.dtype).tiny
    if squares:
        # The largest squares would drown the others. The root has no derivative at 0.
        found, target = (found + 1e-12).sqrt(), (target + 1e-12).sqrt()
    cosine: Tensor = torch.nn.functional.cosine_similarity(found.flatten(), target.flatten(), dim=0)
    size = (found.norm().clamp(min=tiny) / target.norm().clamp(min=tiny)).log().square()
    distance: Tensor = 1 - cosine + SIZE * size
    return distance


def _total_variation(x: Tensor) -> Tensor:
    """The mean absolute difference of neighbouring pixels."""
    total: Tensor = x.diff(dim=-1).abs().mean() + x.diff(dim=-2).abs().mean()
    return total
