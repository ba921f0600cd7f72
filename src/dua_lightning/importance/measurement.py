"""The order that an importance gives to whoever computes it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import nn

from dua_lightning.importance.rules import Power
from dua_lightning.importance.scalars import Scalar
from dua_lightning.params import Params
from dua_lightning.tasks import Expert

Precision = Literal["full", "bf16"]
"""The forward and backward pass: in the weights' own type, or in bfloat16 where autocast takes it; sums are float32."""


@dataclass(frozen=True)
class Measurement:
    """The sums over samples of |gradient of scale * scalar|^power of one expert, to be added to `totals`.

    Args:
        net: The network that computes with the expert's state.
        names: `params.body_names(net)`.
        expert: The expert; the sums are measured on the device of its state.
        scalar: The function of the logits that is differentiated.
        scale: A factor of it.
        power: 1 for the absolute gradient of each sample, 2 for its square.
        totals: The sums, by the names under which `named_parameters` lists the weights.
        precision: The precision of the passes.
        memory: Bytes of activations that one pass may hold.
    """

    net: nn.Module
    names: Mapping[str, str]
    expert: Expert
    scalar: Scalar
    scale: float
    power: Power
    totals: Params
    precision: Precision
    memory: int
