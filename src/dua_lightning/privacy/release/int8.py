"""A byte, or less, for each number."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dua_lightning.errors import InputError
from dua_lightning.privacy.release.base import Released, each, numbers
from dua_lightning.tasks import Prior

MOST_BITS = 8
SCALE = 4
"""Bytes of a tensor's scale."""


@dataclass(frozen=True)
class Int8:
    """Send each number as a whole one from 0 to 2^bits - 1, times a scale of its tensor: the largest is met exactly.

    Args:
        bits: Bits of a number, 1 to 8.
        rounding: `"unbiased"` rounds up with the probability that makes the mean right, so that small numbers are not
            all lost beside a large one. `"nearest"` draws nothing.

    Raises:
        InputError: A number of bits or a rounding that there is not.
    """

    bits: int = 8
    rounding: Literal["unbiased", "nearest"] = "unbiased"

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= MOST_BITS:
            raise InputError(f"a number has 1 to {MOST_BITS} bits, got bits={self.bits}")
        if self.rounding not in ("unbiased", "nearest"):
            raise InputError(f"rounding is unbiased or nearest, got {self.rounding}")

    def __call__(self, prior: Prior, images: int, stream: torch.Generator) -> Released:
        def rounded(omega: Tensor) -> Tensor:
            levels = 2**self.bits - 1
            scale = omega.amax() / levels if omega.numel() else omega.new_ones(())
            steps = (omega / scale).nan_to_num(0)
            if self.rounding == "nearest":
                return steps.round() * scale
            up = torch.rand(omega.shape, generator=stream).to(steps)
            return (steps + up).floor().clamp(max=levels) * scale

        sent = each(prior, rounded)
        return Released(sent, sum(-(-count * self.bits // 8) + SCALE for count in numbers(sent)))
