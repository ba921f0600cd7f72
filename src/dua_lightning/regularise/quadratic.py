"""Quadratic penalties around the weights of the previous task, in closed form: what EWC, MAS and L2-transfer share."""

import math
from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from dua_lightning.errors import InputError
from dua_lightning.importance.base import Importance
from dua_lightning.params import Params, add, body_names, clone
from dua_lightning.regularise.base import Regulariser
from dua_lightning.tasks import Batch, Expert, Task


class QuadraticPenalty(Regulariser):
    """Penalty strength * sum_k Omega_k (theta_k - theta*_k)^2 over the shared weights.

    Omega is the importance of the weights for earlier tasks, theta* their values after the last one. There is no factor
    1/2: the gradient is 2 strength Omega (theta - theta*). It is added to the gradients before the optimizer's step:
    once for accumulated batches, after mixed precision has unscaled them, after several devices have summed them, and
    before they are clipped. The loss does not contain the penalty. The head, whose columns belong to tasks, is not
    penalised, and the first task has no penalty.

    | method | importance | strength | accumulate |
    |---|---|---|---|
    | L2-transfer | `Uniform` | 1e-3 | no |
    | EWC | FIM of the data's labels | 400 | yes |
    | MAS | `MAS` | 1 | yes |

    Args:
        importance: Measures Omega on the training data of each task.
        strength: The factor of the penalty, at least 0.
        accumulate: Whether Omega is the sum over all earlier tasks, or the last task's alone. theta* is the last
            task's in both cases.
        first_task: The first task, counted from 1, that is penalised.
        limit: Where given, 2 strength Omega is cut at it. The steps of SGD grow without bound for a penalty stiffer
            than 2 (1 + momentum) / lr, and at 1 / lr one plain step ends at theta*.
        pull_head: Whether the head's weights are pulled as well, with Omega = 1, towards the values that they have
            before a task. Old columns have neither a gradient nor a distance, so that only the new task's move.

    Raises:
        InputError: For a strength, a first task or a limit that is out of range; while training, for a module whose
            weights are not those that were consolidated.
    """

    acts_on_first_task: ClassVar[bool] = False

    def __init__(
        self,
        importance: Importance,
        strength: float,
        accumulate: bool = True,
        first_task: int = 2,
        limit: float | None = None,
        pull_head: bool = False,
    ) -> None:
        if not 0 <= strength < math.inf:
            raise InputError(f"the strength of a penalty is at least 0 and finite, got {strength}")
        if first_task < 1:
            raise InputError(f"the first task that is penalised is counted from 1, got {first_task}")
        if limit is not None and not limit > 0:
            raise InputError(f"the limit of a penalty is positive, got {limit}")
        self.importance = importance
        self.strength = strength
        self.accumulate = accumulate
        self.first_task = first_task
        self.limit = limit
        self.pull_head = pull_head
        self.learnt = 0
        self.anchor: Params = {}
        self.omega: Params = {}
        self._terms: list[tuple[nn.Parameter, Tensor, Tensor]] = []

    def consolidate(self, module: nn.Module, task: Task, data: Iterable[Batch]) -> None:
        state = module.state_dict()
        omega = self.importance(module, Expert(task, state), data)
        if self.pull_head:
            body = body_names(module)
            omega |= {name: torch.ones_like(p) for name, p in module.named_parameters() if name not in body}
        if self.accumulate and self.omega:
            omega = add(self.omega, omega)
        if self.limit is not None and self.strength:
            # Cutting the sum so far changes nothing in the cut of a later sum: importances are not negative.
            omega = {name: o.clamp(max=self.limit / (2 * self.strength)) for name, o in omega.items()}
        self.omega = omega
        self.anchor = clone({name: state[name] for name in omega})
        self.learnt += 1

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._terms = []
        if not self.omega or self.learnt + 1 < self.first_task:
            return
        weights = dict(pl_module.named_parameters(remove_duplicate=False))
        seen: set[int] = set()
        for name, omega in self.omega.items():
            if name not in weights or weights[name].shape != omega.shape:
                raise InputError(
                    f"{type(self).__name__} was consolidated on weights {name} {tuple(omega.shape)}, which this "
                    f"{type(pl_module).__name__} does not have; consolidate on the module that is trained"
                )
            p = weights[name]
            # A tied weight has one gradient under several names.
            if id(p) not in seen and p.requires_grad:
                seen.add(id(p))
                self._terms.append((p, self.anchor[name].to(p), omega.to(p)))

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        own = None
        if len(trainer.optimizers) > 1:
            own = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for p, anchor, omega in self._terms:
            if own is None or id(p) in own:
                self._pull(p, anchor, omega)

    @torch.no_grad()
    def _pull(self, p: nn.Parameter, anchor: Tensor, omega: Tensor) -> None:
        """Add 2 strength Omega (theta - theta*) to the gradient of theta."""
        if p.grad is None:
            p.grad = torch.zeros_like(p)
        p.grad.addcmul_(p - anchor, omega, value=2 * self.strength)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._terms = []

    def state_dict(self) -> dict[str, Any]:
        return {"learnt": self.learnt, "anchor": self.anchor, "omega": self.omega}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.learnt, self.anchor, self.omega = (state_dict[name] for name in ("learnt", "anchor", "omega"))
