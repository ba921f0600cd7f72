"""AdaBN that keeps a share of the statistics that it is given.

[Schneider2020] S. Schneider, E. Rusak, L. Eck, O. Bringmann, W. Brendel, M. Bethge. Improving robustness against common
corruptions by covariate shift adaptation. NeurIPS 2020.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from dua_lightning.adapt.adabn import AtOnce, Moments, check_images_at_once, require_batch_norm, take_statistics
from dua_lightning.errors import InputError
from dua_lightning.params import State, clone, loaded
from dua_lightning.tasks import Batch, Task


@dataclass(frozen=True)
class AlphaBN:
    """Each batch-norm layer takes a mixture of the given statistics and the user's moments, by [Schneider2020].

    With n images, the new mean is (N mu_given + n mu_user) / (N + n), and the new variance is the same mixture of the
    two variances. The given statistics are those of the state, so that N tells how many images they are worth; use it
    where somebody has put them right, such as `statistics=server`. The user's moments are the exact ones of `AdaBN`, of
    the very model that is then used: a layer normalises by the mixture when the next layer's moments are taken.

    Args:
        pseudo_count: N, the number of images that the given statistics are worth. With 0 it is `AdaBN`.
        alpha: The share of the user's moments from 0 to 1, whatever the number of images; `None` for n / (N + n).
        images_at_once: The largest number of images in a pass, as in `AdaBN`.

    Raises:
        InputError: A number cannot be used, or `AdaBN` raises it.
    """

    pseudo_count: float = 16.0
    alpha: float | None = None
    images_at_once: AtOnce = "auto"
    statistics: ClassVar[Moments] = "exact"
    needs_labels: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_images_at_once(self.images_at_once, "alpha-BN")
        check_pseudo_count(self.pseudo_count, "alpha-BN")
        if self.alpha is not None and not 0 <= self.alpha <= 1:
            raise InputError(f"the user's share alpha of alpha-BN is from 0 to 1, got {self.alpha}")

    def check(self, net: nn.Module) -> None:
        require_batch_norm(net, "alpha-BN")

    def trainable(self, net: nn.Module) -> int:
        return 0

    def normalised_together(self, sizes: Sequence[int]) -> int:
        # A mixture has a variance, even where the user's own moments have none.
        return max(2, sum(sizes)) if self._kept(sum(sizes)) else sum(sizes)

    def __call__(self, net: nn.Module, state: State, task: Task, data: Iterable[Batch]) -> State:
        self.check(net)
        adapted, images = loaded(net, state), [x for x, _ in data]
        take_statistics(adapted, images, self.images_at_once, task, kept=self._kept(sum(map(len, images))))
        return clone(adapted.state_dict())

    def _kept(self, count: int) -> float:
        """The share of the given statistics with so many images."""
        return kept_share(self.pseudo_count, count) if self.alpha is None else 1 - self.alpha


def kept_share(pseudo_count: float, count: int) -> float:
    """Compute the share of given statistics in a mixture with those of some images.

    Args:
        pseudo_count: N, the number of images that the given statistics are worth.
        count: n, the number of images.

    Returns:
        N / (N + n); 0 with neither.
    """
    return pseudo_count / (pseudo_count + count) if pseudo_count else 0.0


def check_pseudo_count(pseudo_count: float, adaptation: str) -> None:
    """Refuse a number of images that given statistics or priors cannot be worth.

    Args:
        pseudo_count: The number.
        adaptation: The adaptation's name, for the message.

    Raises:
        InputError: It is negative or not finite.
    """
    if not 0 <= pseudo_count < float("inf"):
        raise InputError(f"the pseudo-count of {adaptation} is 0 or more and finite, got {pseudo_count}")
