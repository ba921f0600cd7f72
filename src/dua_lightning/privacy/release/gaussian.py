"""Differential privacy by the Gaussian mechanism.

[Dwork2014] C. Dwork, A. Roth. The algorithmic foundations of differential privacy. 2014.
[BalleWang2018] B. Balle, Y.-X. Wang. Improving the Gaussian mechanism for differential privacy: analytical calibration
and optimal denoising. ICML 2018.
[Mironov2012] I. Mironov. On significance of the least significant bits for differential privacy. CCS 2012.
"""

import importlib.util
import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from dua_lightning.errors import InputError
from dua_lightning.importance.averaged import Level, averaged
from dua_lightning.importance.base import Importance
from dua_lightning.importance.clipped import Clipped, norm
from dua_lightning.privacy.release.base import Released, each, size
from dua_lightning.tasks import Prior

ROUNDING = 1e-4
"""The share by which rounding may take a clipped prior beyond its bound."""

Neighbours = Literal["add_or_remove", "replace"]
"""The sets of images that the guarantee makes hard to tell apart: one more or less, or one exchanged for another."""


@dataclass(frozen=True)
class Gaussian:
    """Clip the norm of each image's importance, and add Gaussian noise: (epsilon, delta) differential privacy.

    What is sent is max(0, (sum_i Omega_i min(1, clip / ||Omega_i||) + noise) / n), the noise of standard deviation
    sigma * clip, drawn for each weight by itself. The number n of images is public. Adding or removing one image moves
    the sum by at most `clip` (its sensitivity), replacing one by at most sqrt(2) * clip, since no entry is negative.
    Means over channels and layers, and the 0 that takes the place of a negative number, are taken afterwards and cost
    no privacy [Dwork2014]. Epsilon is that of the analytic Gaussian mechanism [BalleWang2018], by `dp-accounting`.

    The guarantee is about one image and `rounds` messages, and not about all images of a user together. It asks for
    noise that nobody can compute: the streams of an experiment come from its seed, so that a device has to draw a seed
    of its own from its system. Floating-point numbers are not real numbers; attacks on their last bits [Mironov2012]
    are not covered.

    Args:
        clip: C, the largest norm of an image's importance. It must not be chosen by the images themselves.
        sigma: The standard deviation of the noise of the sum, in units of C; with 0 there is none, and no privacy.
        delta: The delta at which epsilon is given, well below one over the number of images.
        level: The weights whose mean is sent, as in `importance.averaged`.
        rounds: The number of messages on the same images that epsilon covers.
        neighbours: The kind of sets of images that the guarantee is about.

    Raises:
        InputError: A setting cannot be used; from the call, the prior was not clipped, or `dp-accounting`, which
            `epsilon` and `check` ask for as well, is not installed.
    """

    clip: float
    sigma: float
    delta: float = 1e-5
    level: Level = "weight"
    rounds: int = 1
    neighbours: Neighbours = "add_or_remove"

    def __post_init__(self) -> None:
        if not self.clip > 0:
            raise InputError(f"the largest norm of an image's importance is positive, got clip={self.clip}")
        if not 0 <= self.sigma < math.inf:
            raise InputError(f"the noise is at least 0 and finite, got sigma={self.sigma}")
        if not 0 < self.delta < 1:
            raise InputError(f"delta is between 0 and 1, got delta={self.delta}")
        if self.rounds < 1:
            raise InputError(f"a guarantee is about at least one message, got rounds={self.rounds}")
        if self.sigma and self.clip == math.inf:
            raise InputError("noise is in units of the largest norm, so that clip is finite where sigma is not 0")
        for value, kind in ((self.level, Level), (self.neighbours, Neighbours)):
            if value not in get_args(kind):
                raise InputError(f"{value} is not one of {', '.join(get_args(kind))}")

    @property
    def epsilon(self) -> float:
        """The epsilon of all rounds together; infinity without noise."""
        if not self.sigma:
            return math.inf
        self.check()
        # It loads in seconds.
        from dp_accounting import get_epsilon_gaussian

        distance = math.sqrt(self.rounds) * (math.sqrt(2) if self.neighbours == "replace" else 1)
        return float(get_epsilon_gaussian(self.sigma / distance, self.delta))

    def check(self) -> None:
        if self.sigma and importlib.util.find_spec("dp_accounting") is None:
            raise InputError("epsilon needs dp-accounting, which is missing; pip install 'dua_lightning[privacy]'")

    def measured(self, psi: Importance) -> Importance:
        return Clipped(psi, self.clip)

    def __call__(self, prior: Prior, images: int, stream: torch.Generator) -> Released:
        if (found := norm(prior)) > self.clip * (1 + ROUNDING):
            raise InputError(
                f"this prior has the norm {found:.3g}, and a mean of clipped images has at most clip={self.clip}; "
                "measure it with the importance that the release's `measured` gives"
            )

        def noisy(omega: Tensor) -> Tensor:
            noise = torch.randn(omega.shape, generator=stream, dtype=omega.dtype).to(omega.device)
            return omega + noise * (self.sigma * self.clip / images)

        sent = averaged(each(prior, noisy) if self.sigma else prior, self.level)
        sent = each(sent, lambda omega: omega.clamp(min=0))
        return Released(sent, size(sent), self.epsilon, self.delta)
