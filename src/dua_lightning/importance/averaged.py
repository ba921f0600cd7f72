"""Importances of whole channels, layers or experts."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from dua_lightning.errors import InputError
from dua_lightning.importance.base import Importance
from dua_lightning.params import Params
from dua_lightning.tasks import Batch, Expert

Level = Literal["weight", "channel", "layer", "expert"]
"""The weights that share one importance; see `averaged`."""


@dataclass(frozen=True)
class Averaged:
    """Measure an importance, and give all weights of a channel, of a tensor or of the expert their mean.

    At the level `expert` a prior is one number, and eq. (1) with it is a weighted mean of whole experts: each has one
    mixing ratio alpha for all of its weights.

    Args:
        of: The importance that is averaged.
        level: The weights that share one importance, as in `averaged`.

    Raises:
        InputError: There is no such level.
    """

    of: Importance
    level: Level = "expert"

    def __post_init__(self) -> None:
        if self.level not in get_args(Level):
            raise InputError(f"an importance is averaged at a level of {', '.join(get_args(Level))}, got {self.level}")

    @property
    def needs_labels(self) -> bool:
        return self.of.needs_labels

    def __call__(self, net: nn.Module, expert: Expert, data: Iterable[Batch]) -> Params:
        return averaged(self.of(net, expert, data), self.level)


def averaged(prior: Params, level: Level) -> Params:
    """Average importances over the weights that are to share one.

    Args:
        prior: Omega: a number for each weight, by the names of the weights.
        level: `"weight"`: each weight keeps its own. `"channel"`: the mean over each output channel, which is an entry
            of the tensor's first dimension. `"layer"`: the mean over each tensor. `"expert"`: the mean over all entries
            of all tensors; a tied weight counts under each of its names.

    Returns:
        Tensors of the same names and shapes. Entries that share a number share its memory; do not write to them.
    """
    if level == "weight":
        return prior
    if level == "channel":
        return {name: _of_channels(omega) for name, omega in prior.items()}
    if level == "layer":
        return {name: omega.mean().expand_as(omega) for name, omega in prior.items()}
    entries = sum(omega.numel() for omega in prior.values())
    mean = torch.stack([omega.sum() / entries for omega in prior.values()]).sum()
    return {name: mean.expand_as(omega) for name, omega in prior.items()}


def _of_channels(omega: Tensor) -> Tensor:
    """The mean over each entry of the first dimension."""
    rest = tuple(range(1, omega.dim()))
    return omega.mean(rest, keepdim=True).expand_as(omega) if rest else omega
