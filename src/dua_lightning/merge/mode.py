"""Merging weighted by importance.

[Lee2017] S.-W. Lee, J.-H. Kim, J. Jun, J.-W. Ha, B.-T. Zhang. Overcoming catastrophic forgetting by incremental moment
matching. NeurIPS 2017.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, product
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from dua_lightning.errors import InputError
from dua_lightning.params import Params, State
from dua_lightning.tasks import Expert, Prior, UserModel

COMPILED_TYPES = [
    ({torch.float32}, {torch.float32}),
    ({torch.float32}, {torch.bfloat16}),
    ({torch.float64}, {torch.float64}),
]
"""Types of weights and of priors that the compiled loop takes."""

COMPILED_FROM = 1 << 17
"""Weights from which a network goes through the compiled loop; below, loading the loop costs more than it saves."""

BLOCK = 1 << 16
"""Entries that torch merges at a time: intermediate results stay in the cache, and calls are few enough."""


@dataclass(frozen=True)
class Mode:
    """Eq. (1) with equal mixing ratios: theta = sum_t Omega_t theta_t / sum_t Omega_t; mode-IMM of [Lee2017].

    With `Uniform` priors this is the mean of the experts (mean-IMM). What the priors do not name (the head) comes from
    each task's own expert.

    Priors may be of another type than the weights, in whose type they are added up. bfloat16 halves what a user sends,
    and moves the merged weights by less than a thousandth of the experts' spread. Not so float16: it makes 0 of
    anything below 3e-8, as entries of a Fisher matrix often are.

    `zero_importance`: a weight that no expert finds important (sum Omega = 0) becomes the experts' `"mean"`, or
    `"zero"`, as in the authors' release.

    Raises `InputError` for a prior that does not fit its expert or is not a non-negative number everywhere.
    """

    zero_importance: Literal["mean", "zero"] = "mean"
    needs_prior: ClassVar[bool] = True
    keeps_statistics: ClassVar[bool] = False

    def __call__(self, experts: Sequence[Expert], priors: Sequence[Prior], start: State) -> UserModel:
        return self.each(experts, [priors])[0]

    def each(
        self, experts: Sequence[Expert], users: Sequence[Sequence[Params]], outs: Sequence[Params] | None = None
    ) -> list[UserModel]:
        """The models of several users, `users[i]` being the priors of one; the experts are read once for all."""
        if not users:
            return []
        for priors in users:
            _check_names(experts, priors, users[0])
        names = list(users[0][0])
        if outs is None:
            outs = [{name: _fresh(experts[0].state[name]) for name in names} for _ in users]
        else:
            _check_outs(outs, experts, users)
        self._merge(experts, users, outs)
        return [{e.task.name: e.state | {name: out[name] for name in names} for e in experts} for out in outs]

    @torch.no_grad()
    def _merge(self, experts: Sequence[Expert], users: Sequence[Sequence[Params]], outs: Sequence[Params]) -> None:
        zero = self.zero_importance == "zero"
        sound = True
        groups = _for_the_loop(experts, users, outs)
        for names in groups:
            # Not for those who merge small networks only.
            from dua_lightning.kernels.weighted_mean import merge

            thetas = [[expert.state[name] for expert in experts] for name in names]
            omegas = [[[prior[name] for prior in priors] for name in names] for priors in users]
            sound &= merge(thetas, omegas, [[out[name] for name in names] for out in outs], zero)
        done = set(chain(*groups))
        left = [name for name in users[0][0] if name not in done]
        for name, (priors, out) in product(left, zip(users, outs, strict=True)):
            sound &= _weighted_mean(out[name], [e.state[name] for e in experts], [p[name] for p in priors], zero)
        if not sound:
            for priors in users:
                _check_values(experts, priors)


def _for_the_loop(
    experts: Sequence[Expert], users: Sequence[Sequence[Params]], outs: Sequence[Params]
) -> list[list[str]]:
    """The names that the compiled loop merges, those of the same types together."""
    names = list(users[0][0])
    if sum(experts[0].state[name].numel() for name in names) < COMPILED_FROM:
        return []
    groups: list[list[str]] = [[] for _ in COMPILED_TYPES]
    for name in names:
        thetas = [model[name] for model in chain((expert.state for expert in experts), outs)]
        omegas = [prior[name] for prior in chain(*users)]
        types = {theta.dtype for theta in thetas}, {omega.dtype for omega in omegas}
        if types in COMPILED_TYPES and all(t.is_cpu and t.is_contiguous() for t in chain(thetas, omegas)):
            groups[COMPILED_TYPES.index(types)].append(name)
    return [group for group in groups if group]


def _weighted_mean(out: Tensor, thetas: Sequence[Tensor], omegas: Sequence[Tensor], zero: bool) -> bool:
    """Running weighted mean: after k experts it stands at their merge, and moves by Omega_k / sum Omega to the next.

    Products Omega * theta are never formed, so neither tiny nor huge importances lose digits. While the sum is still 0
    the step is 1 / k, the plain mean; with `zero`, a sum that stays 0 gives 0. Returns whether all importances are
    non-negative numbers that can be added up.
    """
    tensors = [out, *thetas, *omegas]
    if out.numel() > BLOCK and all(t.is_cpu and t.is_contiguous() for t in tensors):
        blocks = zip(*(t.view(-1).split(BLOCK) for t in tensors), strict=True)
        return all(_weighted_mean(mean, rest[: len(thetas)], rest[len(thetas) :], zero) for mean, *rest in blocks)
    mean = out.copy_(thetas[0])
    total = omegas[0].to(mean, copy=True)
    for k, (theta, omega) in enumerate(zip(thetas[1:], omegas[1:], strict=True), start=2):
        total += omega
        # 0 / 0 is NaN.
        mean.lerp_(theta, (omega.to(mean) / total).nan_to_num_(1 / k))
    if zero:
        mean.masked_fill_(total == 0, 0)
    return all(_can_be_added(*torch.aminmax(omega), len(omegas), mean.dtype) for omega in omegas)


def _can_be_added(low: Tensor, high: Tensor, count: int, dtype: torch.dtype) -> bool:
    return float(low) >= 0 and float(high) * count <= torch.finfo(dtype).max


def _fresh(theta: Tensor) -> Tensor:
    if not (theta.is_cpu and theta.is_contiguous()):
        return torch.empty_like(theta)
    # numpy asks for huge pages where there are some: the system clears them in far fewer steps.
    return torch.from_numpy(np.empty(theta.nbytes, np.uint8)).view(theta.dtype).view(theta.shape)


def _check_names(experts: Sequence[Expert], priors: Sequence[Params], first: Sequence[Params]) -> None:
    if len(experts) != len(priors) or not experts:
        raise InputError(f"a merge needs one prior for each expert, got {len(experts)} experts, {len(priors)} priors")
    for expert, prior in zip(experts, priors, strict=True):
        whose = f"the prior of task {expert.task.name}"
        if not prior:
            raise InputError(f"{whose} names no weights; measure it on a network with a body")
        if prior.keys() != first[0].keys():
            odd = sorted(prior.keys() ^ first[0].keys())[0]
            raise InputError(f"{whose} and the first prior name different weights ({odd}); measure both on one network")
        for name, omega in prior.items():
            if name not in expert.state or omega.shape != expert.state[name].shape:
                shape = tuple(expert.state[name].shape) if name in expert.state else "absent"
                raise InputError(
                    f"{whose} has {name} {tuple(omega.shape)}, its expert {shape}; Mode weighs each weight by one "
                    "number, so give it an importance of that kind, such as MAS or FIM, measured on that expert"
                )
            if omega.is_complex():
                raise InputError(f"{whose} has complex numbers for {name}; an importance is a non-negative number")
            if omega.shape != first[0][name].shape:
                shape = tuple(first[0][name].shape)
                raise InputError(
                    f"{whose} has {name} {tuple(omega.shape)}, the first prior {shape}; measure both on one network"
                )


def _check_values(experts: Sequence[Expert], priors: Sequence[Params]) -> None:
    for expert, prior in zip(experts, priors, strict=True):
        for name, omega in prior.items():
            low, high = torch.aminmax(omega)
            if not _can_be_added(low, high, len(priors), expert.state[name].dtype):
                raise InputError(
                    f"the prior of task {expert.task.name} cannot weigh {name}: its entries span {low:g} to {high:g}, "
                    f"and must be non-negative numbers whose sum over {len(priors)} tasks is finite"
                )


def _check_outs(outs: Sequence[Params], experts: Sequence[Expert], users: Sequence[Sequence[Params]]) -> None:
    if len(outs) != len(users):
        raise InputError(f"a merge writes one out for each user, got {len(outs)} outs for {len(users)} users")
    names = list(users[0][0])
    for name, out in product(names, outs):
        theta = experts[0].state[name]
        if name not in out or _kind(out[name]) != _kind(theta):
            kind = _kind(out[name]) if name in out else "nothing"
            raise InputError(f"out has {kind} for {name}, where the experts have {_kind(theta)}; give one like theirs")
    read = chain((expert.state for expert in experts), *users)
    spans = [(*_span(tensor), "") for params in read for tensor in params.values()]
    spans += [(*_span(out[name]), name) for out in outs for name in names]
    end = end_written = 0
    last = ""
    for first, stop, name in sorted(spans):
        # Tensors that are only read may share memory among themselves.
        if first < (end if name else end_written):
            raise InputError(
                f"{name or last} of out shares memory with an expert, a prior or another tensor of out; give memory of "
                "its own"
            )
        end = max(end, stop)
        if name:
            end_written, last = stop, name


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)} on {tensor.device}"


def _span(tensor: Tensor) -> tuple[int, int]:
    """Address of the first byte, and of the first one behind the last."""
    first = tensor.data_ptr()
    behind = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)) + 1
    return first, first + behind * tensor.itemsize if tensor.numel() else first
