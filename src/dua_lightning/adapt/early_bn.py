"""AdaBN of the earliest layers alone."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from dua_lightning.adapt.adabn import (
    AtOnce,
    Moments,
    check_images_at_once,
    in_order,
    require_batch_norm,
    take_statistics,
)
from dua_lightning.errors import InputError
from dua_lightning.params import State, clone, loaded
from dua_lightning.tasks import Batch, Task


@dataclass(frozen=True)
class EarlyBN:
    """The earliest batch-norm layers take the statistics of the user's images, as in `AdaBN`; the others keep theirs.

    Early layers see how images look: brightness, contrast, noise, blur. Late ones see what is on them, so that their
    moments change with the user's classes too, and to follow these is what makes `AdaBN` harm a user of few classes.
    Once the early layers have put an image's look right, the statistics that the server took suit the late ones. Use it
    where these are right, such as with `statistics=server`.

    Layers are counted in the order in which a pass reaches them. `experiments/open_problem` measures it.

    Args:
        share: The share of the layers that take the user's statistics, above 0 and at most 1; a part of a layer counts
            as a whole one. With 1 it is `AdaBN`.
        images_at_once: The largest number of images in a pass, as in `AdaBN`.

    Raises:
        InputError: A number cannot be used, or `AdaBN` raises it.
    """

    share: float = 0.7
    images_at_once: AtOnce = "auto"
    statistics: ClassVar[Moments] = "exact"
    needs_labels: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_images_at_once(self.images_at_once, "early AdaBN")
        if not 0 < self.share <= 1:
            raise InputError(f"early AdaBN adapts a share of the layers above 0 and at most 1, got {self.share}")

    def check(self, net: nn.Module) -> None:
        require_batch_norm(net, "early AdaBN")

    def trainable(self, net: nn.Module) -> int:
        return 0

    def normalised_together(self, sizes: Sequence[int]) -> int:
        return sum(sizes)

    def __call__(self, net: nn.Module, state: State, task: Task, data: Iterable[Batch]) -> State:
        self.check(net)
        adapted, images = loaded(net, state), [x for x, _ in data]
        layers = in_order(adapted, images[0][:1]) if images else []
        early = layers[: math.ceil(self.share * len(layers))]
        take_statistics(adapted, images, self.images_at_once, task, layers=early)
        return clone(adapted.state_dict())
