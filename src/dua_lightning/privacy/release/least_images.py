"""A least number of images."""

from dataclasses import dataclass

import torch

from dua_lightning.errors import InputError
from dua_lightning.privacy.release.base import Released, size
from dua_lightning.tasks import Prior


@dataclass(frozen=True)
class LeastImages:
    """Refuse to send a prior of few images; one of enough images is sent as it is.

    In the first layer of a perceptron MAS is a sum of one non-negative matrix of rank one for each image. With few of
    them, a factorisation gives the images back. A least number is no guarantee.

    Args:
        images: The least number.

    Raises:
        InputError: It is less than 1; from the call, the prior was measured on fewer.
    """

    images: int = 50

    def __post_init__(self) -> None:
        if self.images < 1:
            raise InputError(f"the least number of images is at least 1, got images={self.images}")

    def __call__(self, prior: Prior, images: int, stream: torch.Generator) -> Released:
        if images < self.images:
            raise InputError(
                f"a prior of {images} images is not sent, since it can show them; the least number is "
                f"images={self.images}: measure on more, lower it, or use a merge without the user's prior"
            )
        return Released(prior, size(prior))
