"""Several releases, one after another."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from dua_lightning.errors import InputError
from dua_lightning.importance.base import Importance
from dua_lightning.privacy.release.base import Release, Released, WhileMeasuring
from dua_lightning.privacy.release.least_images import LeastImages
from dua_lightning.tasks import Prior


@dataclass(frozen=True)
class Chain:
    """Each step releases what the step before it gives; the bytes are those of the last one.

    A step that clips comes before all that change numbers, since its guarantee is about the mean of clipped images.
    Whatever is done to its result afterwards has the same guarantee.

    Args:
        steps: The releases in their order.

    Raises:
        InputError: There is no step, one is no release, or a step that clips comes too late.
    """

    steps: Sequence[Release]

    def __post_init__(self) -> None:
        if not self.steps:
            raise InputError("a chain takes at least one release in steps, and there is none")
        for place, step in enumerate(self.steps):
            if not isinstance(step, Release):
                raise InputError(f"steps[{place}] of a chain is a {type(step).__name__}, which is no release")
            before = [one for one in self.steps[:place] if not isinstance(one, LeastImages)]
            if before and isinstance(step, WhileMeasuring):
                raise InputError(
                    f"steps[{place}] of a chain clips while the prior is measured, and {type(before[0]).__name__} "
                    "before it would undo its guarantee; put it first"
                )

    def check(self) -> None:
        for step in self.steps:
            if isinstance(step, WhileMeasuring):
                step.check()

    def measured(self, psi: Importance) -> Importance:
        for step in self.steps:
            if isinstance(step, WhileMeasuring):
                psi = step.measured(psi)
        return psi

    def __call__(self, prior: Prior, images: int, stream: torch.Generator) -> Released:
        made = Released(prior, 0)
        for step in self.steps:
            found = step(made.prior, images, stream)
            guaranteed = made if found.epsilon is None else found
            made = replace(found, epsilon=guaranteed.epsilon, delta=guaranteed.delta)
        return made
