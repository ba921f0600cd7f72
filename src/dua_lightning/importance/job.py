"""What an importance asks of those who compute it."""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from dua_lightning.importance.rules import Power
from dua_lightning.importance.scalars import Scalar
from dua_lightning.params import Layout, Params
from dua_lightning.tasks import Expert

Precision = Literal["full", "bf16"]
"""Of the forward and backward pass: the weights' own, or bfloat16 where autocast takes it; sums are float32 in both."""


@dataclass(frozen=True)
class Job:
    """The sums over samples of |gradient of scale * scalar|^power, to be added to `totals`.

    `net` has these `modules`, laid out as `places` says; its weights are those of `expert`. `memory`: bytes of
    activations that one pass may hold.
    """

    net: nn.Module
    modules: list[nn.Module]
    places: Layout
    expert: Expert
    scalar: Scalar
    scale: float
    power: Power
    totals: Params
    precision: Precision
    memory: int
