"""Merging weighted by importance.

[Lee2017] S.-W. Lee, J.-H. Kim, J. Jun, J.-W. Ha, B.-T. Zhang. Overcoming catastrophic forgetting by incremental moment
matching. NeurIPS 2017.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import ClassVar, Literal

import torch
from torch import Tensor

from dua_lightning.errors import InputError
from dua_lightning.merge.base import check_finite, check_head, check_norms
from dua_lightning.params import State, lacks
from dua_lightning.tasks import Expert, Prior, UserModel

COMPILED_TYPES = [
    (torch.float32, torch.float32),
    (torch.float32, torch.bfloat16),
    (torch.float64, torch.float64),
]
"""Types of weights and of priors that the compiled loop takes."""

COMPILED_FROM = 1 << 17
"""Entries of a tensor from which the compiled loop merges it; below, loading the loop costs more than it saves."""


@dataclass(frozen=True)
class Mode:
    """Merge experts by eq. (1) with equal mixing ratios: theta = sum_t Omega_t theta_t / sum_t Omega_t.

    This is mode-IMM of [Lee2017] where the server measured the priors, and RACL where a user did. Weights that the
    priors do not name (the head) and buffers come from each task's own expert.

    Weights and priors may be of different types. They are weighed in the widest of them, at least in float32, and the
    result is rounded to the weights' type. Priors in bfloat16 halve what a user sends, and move the merged weights by
    less than a thousandth of the experts' spread. float16 is not for priors: it makes 0 of anything below 3e-8, as
    entries of the FIM often are.

    Args:
        zero_importance: The value of a weight that no expert finds important (sum Omega = 0): the experts' `"mean"`, or
            `"zero"`, as in the authors' release.
    """

    zero_importance: Literal["mean", "zero"] = "mean"
    needs_prior: ClassVar[bool] = True
    keeps_statistics: ClassVar[bool] = False

    def __call__(self, experts: Sequence[Expert], priors: Sequence[Prior], start: State) -> UserModel:
        """Merge the experts into one personal model.

        Args:
            experts: The experts in the order in which they were learnt.
            priors: One prior for each expert: a number for each entry of each weight of the shared body.
            start: The weights that the first expert was trained from; they are not read.

        Returns:
            A state for each task. All tasks share the merged weights; the rest shares the experts' tensors.

        Raises:
            InputError: A prior does not fit its expert, or is not a non-negative number everywhere; a merged weight is
                not finite; or weights would be merged whose columns belong to single tasks, or whose norm the states
                hold.
        """
        _check_names(experts, priors)
        check_head([expert.task for expert in experts], experts[0].state, priors[0])
        check_norms(experts[0].state)
        merged: State = {}
        for name in priors[0]:
            thetas, omegas = [expert.state[name] for expert in experts], [prior[name] for prior in priors]
            found = _compiled(thetas, omegas, self.zero_importance == "zero")
            if found is None:
                _check_values(experts, priors, name)
                found = weighted_mean(thetas, omegas, self.zero_importance == "zero")
                check_finite(found, experts, name)
            merged[name] = found
        return {expert.task.name: expert.state | merged for expert in experts}


@torch.no_grad()
def weighted_mean(thetas: Sequence[Tensor], omegas: Sequence[Tensor], zero: bool = False) -> Tensor:
    """Compute eq. (1) for one tensor, as a running mean that moves by Omega_k / sum Omega towards each expert in turn.

    Products Omega * theta are never formed, so neither tiny nor huge importances lose digits.

    Args:
        thetas: The tensor of each expert.
        omegas: Their importances, of the same shape, finite and not negative.
        zero: Whether an entry without any importance becomes 0; otherwise it becomes the experts' mean.

    Returns:
        The merged tensor, of the experts' shape and type.
    """
    dtype = reduce(torch.promote_types, (tensor.dtype for tensor in (*thetas, *omegas)), torch.float32)
    omegas = [omega.to(dtype) for omega in omegas]
    mean, total = _running_mean(thetas, omegas)
    if total.numel() and total.max() == math.inf:
        # Only ratios matter. Where the sum is too large, an entry that a factor would make 0 has no weight anyway.
        large = torch.stack(omegas).amax(0) > torch.finfo(dtype).max / len(omegas)
        mean, total = _running_mean(thetas, [torch.where(large, omega / (2 * len(omegas)), omega) for omega in omegas])
    mean = mean.masked_fill_(total == 0, 0) if zero else mean
    return mean.to(thetas[0].dtype)


def _running_mean(thetas: Sequence[Tensor], omegas: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The weighted mean, in the type of the importances, and their sum."""
    mean, total = thetas[0].to(omegas[0].dtype, copy=True), omegas[0].clone()
    for k, (theta, omega) in enumerate(zip(thetas[1:], omegas[1:], strict=True), start=2):
        total += omega
        # While no expert was important the step is 0 / 0, and has to be that of the plain mean.
        mean.lerp_(theta.to(mean.dtype), (omega / total).nan_to_num_(1 / k))
    return mean, total


def _compiled(thetas: Sequence[Tensor], omegas: Sequence[Tensor], zero: bool) -> Tensor | None:
    """The tensor merged by the compiled loop; nothing where that does not serve, or finds something suspicious."""
    types = {theta.dtype for theta in thetas}, {omega.dtype for omega in omegas}
    if (
        thetas[0].numel() >= COMPILED_FROM
        and types in [({weight}, {importance}) for weight, importance in COMPILED_TYPES]
        and all(tensor.is_cpu and tensor.is_contiguous() for tensor in (*thetas, *omegas))
    ):
        # numba takes long to load, so small networks do without it.
        from dua_lightning.kernels.weighted_mean import merge

        merged, sound = merge(thetas, omegas, zero)
        return merged if sound else None
    return None


def _check_names(experts: Sequence[Expert], priors: Sequence[Prior]) -> None:
    if len(experts) != len(priors) or not experts:
        raise InputError(f"a merge needs one prior for each expert, got {len(experts)} experts, {len(priors)} priors")
    first = priors[0]
    for expert, prior in zip(experts, priors, strict=True):
        whose = f"the prior of task {expert.task.name}"
        if not prior:
            raise InputError(f"{whose} names no weights; measure it on a network with a body")
        if prior.keys() != first.keys():
            odd = sorted(prior.keys() ^ first.keys())[0]
            raise InputError(f"{whose} and the first prior name different weights ({odd}); measure both on one network")
        for name, omega in prior.items():
            if name not in expert.state:
                raise InputError(f"{whose} names {name}, and its expert {lacks(expert.state, name)}")
            if omega.shape != expert.state[name].shape:
                shape = tuple(expert.state[name].shape)
                raise InputError(
                    f"{whose} has {name} {tuple(omega.shape)}, its expert {shape}; this merge takes a number for each "
                    "weight, measured on that expert"
                )
            if omega.is_complex():
                raise InputError(f"{whose} has complex numbers for {name}; an importance is a non-negative number")
            if omega.shape != first[name].shape:
                raise InputError(
                    f"{whose} has {name} {tuple(omega.shape)}, the first prior {tuple(first[name].shape)}; measure "
                    "both on one network"
                )


def _check_values(experts: Sequence[Expert], priors: Sequence[Prior], name: str) -> None:
    for expert, prior in zip(experts, priors, strict=True):
        if not prior[name].numel():
            continue
        low, high = (float(extreme) for extreme in torch.aminmax(prior[name]))
        if not (low >= 0 and high < math.inf):
            raise InputError(
                f"the prior of task {expert.task.name} cannot weigh {name}: its entries span {low:g} to {high:g}, "
                "and must be finite numbers that are not negative"
            )
