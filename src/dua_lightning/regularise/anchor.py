"""Quadratic penalties around the previous task's weights: L2-transfer, EWC and MAS are three settings of one.

[Lee2017] S.-W. Lee et al. Overcoming catastrophic forgetting by incremental moment matching. NeurIPS 2017.
[Kirkpatrick2017] J. Kirkpatrick et al. Overcoming catastrophic forgetting in neural networks. PNAS 114(13), 2017.
[Aljundi2018] R. Aljundi et al. Memory Aware Synapses: Learning what (not) to forget. ECCV 2018.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from dua_lightning.errors import InputError
from dua_lightning.importance.base import Importance
from dua_lightning.params import Params, add, body_names, clone
from dua_lightning.tasks import Batch, Expert


@dataclass(frozen=True)
class Anchor:
    """Penalty strength * sum_k Omega_k (theta_k - theta*_k)^2 over the shared body, theta* the previous task's weights.

    There is no factor 1/2: the gradient is 2 strength Omega (theta - theta*). The head, whose columns belong to tasks,
    is not penalised, and the first task has no penalty.

    | method | importance | strength | accumulate |
    |---|---|---|---|
    | L2-transfer of IMM [Lee2017] | Uniform | 1e-3 | no |
    | EWC [Kirkpatrick2017] | Fisher, true labels | 400 | yes |
    | MAS [Aljundi2018] | MAS | 1 | yes |

    `accumulate`: Omega is the sum over all earlier tasks, each measured on its training data; otherwise the last task's
    alone. The anchor is the last task's weights in both cases. `first_task`: the first task, counted from 1, that is
    penalised; the authors' release starts L2-transfer at the third. `pull_head`: the new task's columns of the head are
    pulled, with Omega = 1, towards the random values they start from, as the release's L2-transfer does; old columns
    have neither a gradient nor a distance. `limit`: 2 strength Omega is cut at it where given;
    the explicit steps of a penalty stiffer than 2 (1 + momentum) / lr grow without bound, and at 1 / lr one plain step
    ends at the anchor.
    """

    acts_on_first_task: ClassVar[bool] = False
    importance: Importance
    strength: float
    accumulate: bool = True
    first_task: int = 2
    limit: float | None = None
    pull_head: bool = False
    learnt: int = 0
    anchor: Params = field(default_factory=dict, repr=False)
    omega: Params = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.strength < math.inf:
            raise InputError(f"the strength of a penalty is at least 0 and finite, got {self.strength}")
        if self.first_task < 1:
            raise InputError(f"the first task that is penalised is counted from 1, got {self.first_task}")
        if self.limit is not None and not self.limit > 0:
            raise InputError(f"the limit of a penalty is positive, got {self.limit}")

    def loss(self, net: nn.Module, x: Tensor, logits: Tensor) -> None:
        return None

    def add_gradient_(self, name: str, theta: Tensor, gradient: Tensor) -> None:
        if self.learnt + 1 >= self.first_task and name in self.anchor:
            gradient.addcmul_(theta.detach() - self.anchor[name], self.omega[name], value=2 * self.strength)

    def consolidate(self, net: nn.Module, expert: Expert, data: Iterable[Batch]) -> "Anchor":
        omega = self.importance(net, expert, data)
        if self.pull_head:
            body = body_names(net)
            omega |= {name: torch.ones_like(p) for name, p in net.named_parameters() if name not in body}
        if self.accumulate and self.omega:
            omega = add(self.omega, omega)
        if self.limit is not None and self.strength:
            # Cutting the sum so far changes nothing in the cut of a later sum: importances are not negative.
            omega = {name: o.clamp(max=self.limit / (2 * self.strength)) for name, o in omega.items()}
        return replace(
            self, anchor=clone({name: expert.state[name] for name in omega}), omega=omega, learnt=self.learnt + 1
        )

    def on(self, device: torch.device) -> "Anchor":
        anchor, omega = ({name: t.to(device) for name, t in held.items()} for held in (self.anchor, self.omega))
        return replace(self, anchor=anchor, omega=omega)
