"""Every weight matters the same."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from dua_lightning.params import Params, body_names, fitted
from dua_lightning.tasks import Batch, Expert


@dataclass(frozen=True)
class Uniform:
    """Give every weight Omega = 1 without reading the data; anchoring by it is the L2-transfer of IMM.

    Each tensor is an expanded scalar and takes no memory; do not write to it.
    """

    needs_labels: ClassVar[bool] = False

    def __call__(self, net: nn.Module, expert: Expert, data: Iterable[Batch]) -> Params:
        theta = fitted(net, expert.state)
        return {name: theta[first].new_ones(()).expand_as(theta[first]) for name, first in body_names(net).items()}
