"""Merging weighted by importance.

[Lee2017] S.-W. Lee, J.-H. Kim, J. Jun, J.-W. Ha, B.-T. Zhang. Overcoming catastrophic forgetting by incremental moment
matching. NeurIPS 2017.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dua_lightning.errors import InputError
from dua_lightning.params import Params, State
from dua_lightning.tasks import Expert, UserModel

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
"""The buffers of batch-norm layers."""


@dataclass(frozen=True)
class Mode:
    """Eq. (1) with equal mixing ratios: theta = sum_t Omega_t theta_t / sum_t Omega_t; mode-IMM of [Lee2017].

    With `Uniform` priors this is the mean of the experts (mean-IMM). What the priors do not name (the head) comes from
    each task's own expert.

    `zero_importance`: a weight that no expert finds important (sum Omega = 0) becomes the experts' `"mean"`, or
    `"zero"`, as in the authors' release.

    `batch_norm`: the running statistics, which no prior weighs, are those of the `"last"` expert for all tasks (as in
    the release), of each `"task"`'s own expert, or for all tasks the `"mean"`: of the pooled data of all experts, were
    they of equal size, so the variance includes that of the means.

    Raises `InputError` for a prior that does not fit its expert or is not a non-negative number everywhere.
    """

    zero_importance: Literal["mean", "zero"] = "mean"
    batch_norm: Literal["last", "task", "mean"] = "last"

    def __call__(self, experts: Sequence[Expert], priors: Sequence[Params]) -> UserModel:
        if len(experts) != len(priors) or not experts:
            raise InputError(
                f"a merge needs one prior for each expert, got {len(experts)} experts, {len(priors)} priors"
            )
        for expert, prior in zip(experts, priors, strict=True):
            _check(prior, expert, priors[0], len(priors))
        merged = {
            name: _weighted_mean([e.state[name] for e in experts], [p[name] for p in priors]) for name in priors[0]
        }
        if self.zero_importance == "zero":
            for name, theta in merged.items():
                theta.masked_fill_(torch.stack([prior[name] == 0 for prior in priors]).all(0), 0)
        merged |= self._buffers(experts)
        return {expert.task.name: expert.state | merged for expert in experts}

    def _buffers(self, experts: Sequence[Expert]) -> State:
        """The running statistics that all tasks share."""
        names = [name for name in experts[-1].state if name.rpartition(".")[2] in STATISTICS]
        if self.batch_norm == "task":
            return {}
        shared = {name: experts[-1].state[name] for name in names}
        if self.batch_norm == "mean":
            for name in names:
                if name.endswith("running_mean"):
                    variance = name.removesuffix("mean") + "var"
                    means, variances = (torch.stack([e.state[n] for e in experts]) for n in (name, variance))
                    shared[name] = means.mean(0)
                    shared[variance] = variances.mean(0) + means.var(0, correction=0)
        return shared


def _weighted_mean(thetas: Sequence[Tensor], omegas: Sequence[Tensor]) -> Tensor:
    """Running weighted mean: after k experts it stands at their merge, and moves by Omega_k / sum Omega to the next.

    Products Omega * theta are never formed, so neither tiny nor huge importances lose digits. While the sum is still 0
    the step is 1 / k, the plain mean.
    """
    mean = thetas[0].clone()
    total = omegas[0].to(mean, copy=True)
    for k, (theta, omega) in enumerate(zip(thetas[1:], omegas[1:], strict=True), start=2):
        total += omega
        mean.lerp_(theta, torch.where(total > 0, omega.to(mean) / total, 1 / k))
    return mean


def _check(prior: Params, expert: Expert, first: Params, count: int) -> None:
    whose = f"the prior of task {expert.task.name}"
    if not prior:
        raise InputError(f"{whose} names no weights; measure it on a network with a body")
    if prior.keys() != first.keys():
        odd = sorted(prior.keys() ^ first.keys())[0]
        raise InputError(f"{whose} and the first prior name different weights ({odd}); measure both on one network")
    for name, omega in prior.items():
        if name not in expert.state or omega.shape != expert.state[name].shape:
            shape = tuple(expert.state[name].shape) if name in expert.state else "absent"
            raise InputError(f"{whose} has {name} {tuple(omega.shape)}, its expert {shape}; measure it on that expert")
        low, high = torch.aminmax(omega)
        if not (low >= 0 and high * count < torch.inf):
            raise InputError(
                f"{whose} cannot weigh {name}: its entries span {low:g} to {high:g}, and must be non-negative numbers "
                f"whose sum over {count} tasks is finite"
            )
