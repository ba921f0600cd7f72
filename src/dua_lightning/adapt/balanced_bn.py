"""AdaBN in which every class counts the same, for users who do not have all classes equally often.

Where a user has much of one class, the plain moments of their images are those of that class, and AdaBN takes away what
tells it from the others. Class-balanced statistics go back to these two, which take them of a stream.

[Du2024] C. Du, Y. Wang, J. Guo, D. Han, J. Zhou, G. Huang. UniTTA: unified benchmark and versatile framework towards
realistic test-time adaptation. arXiv:2407.20080, 2024.
[Yuan2023] L. Yuan, B. Xie, S. Li. Robust test-time adaptation in dynamic scenarios. CVPR 2023.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dua_lightning.adapt.adabn import AtOnce, Moments, check_images_at_once, require_batch_norm, take_statistics
from dua_lightning.adapt.alpha_bn import check_pseudo_count, kept_share
from dua_lightning.adapt.label_shift import class_prior, posterior
from dua_lightning.adapt.outputs import logits_of
from dua_lightning.errors import InputError
from dua_lightning.params import State, clone, loaded
from dua_lightning.tasks import Batch, Task


def balancing_weights(probabilities: Tensor, fewest: float = 1.0) -> Tensor:
    """Weight images so that every class counts the same.

    With p_ic the share of image i in class c and N_c = sum_i p_ic, image i counts n / C * sum_c p_ic / N_c, over the C
    classes with N_c of at least `fewest`. A class without images is left out, since nobody knows its moments.

    Args:
        probabilities: `(n, classes)`, each row with the sum 1: a softmax, or zeros and ones.
        fewest: The fewest images, by their shares, of a class that counts.

    Returns:
        `(n,)` weights with the sum n; ones where no class has enough images.
    """
    sizes = probabilities.sum(0)
    has = sizes >= fewest
    if not has.any():
        return torch.ones_like(probabilities[:, 0])
    return len(probabilities) * (probabilities[:, has] / sizes[has]).mean(1)


def estimated_classes(logits: Tensor, soft: bool = True, corrected: bool = True) -> Tensor:
    """Estimate the class of images from their logits.

    Args:
        logits: `(n, classes)`.
        soft: Whether an image counts in all classes by its softmax, or in the most probable one alone.
        corrected: Whether the softmax is first corrected for the user's shares of the classes, as in `BalancedBN`.

    Returns:
        `(n, classes)`, each row with the sum 1.
    """
    shares = logits.softmax(1)
    if corrected:
        even = torch.full_like(shares[0], 1 / shares.shape[1])
        shares = posterior(shares, class_prior(shares, even, pseudo_count=1), even)
    return shares if soft else nn.functional.one_hot(shares.argmax(1), shares.shape[1]).to(shares)


@dataclass(frozen=True)
class BalancedBN:
    """Each batch-norm layer takes the moments of the user's images in which every class counts the same.

    Labels are not read: the classes are those that the given model predicts. Each image has the weight of
    `balancing_weights`, with which it counts in the exact moments of `AdaBN`. Where all classes are predicted equally
    often, it is `AdaBN`.

    Args:
        rounds: How often statistics are taken; the classes of a further round are those that the adapted model
            predicts.
        soft: Whether an image counts in all classes by its softmax, or in the most probable one alone.
        corrected: Whether the softmax is first corrected for the user's shares of the classes, which `class_prior`
            estimates in each round with one image of each class added. Otherwise the frequent classes are taken for
            rarer than they are, and are balanced only in part.
        pseudo_count: N, the number of images that the given statistics are worth, as in `AlphaBN`; with 0 nothing of
            them is kept.
        images_at_once: The largest number of images in a pass, as in `AdaBN`.

    Raises:
        InputError: A number cannot be used, the logits are not finite, or `AdaBN` raises it.
    """

    rounds: int = 1
    soft: bool = True
    corrected: bool = True
    pseudo_count: float = 0.0
    images_at_once: AtOnce = "auto"
    statistics: ClassVar[Moments] = "exact"
    needs_labels: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_images_at_once(self.images_at_once, "class-balanced AdaBN")
        check_pseudo_count(self.pseudo_count, "class-balanced AdaBN")
        if self.rounds < 1:
            raise InputError(f"class-balanced AdaBN takes 1 or more rounds, got {self.rounds}")

    def check(self, net: nn.Module) -> None:
        require_batch_norm(net, "class-balanced AdaBN")

    def trainable(self, net: nn.Module) -> int:
        return 0

    def normalised_together(self, sizes: Sequence[int]) -> int:
        return max(2, sum(sizes)) if self.pseudo_count else sum(sizes)

    def __call__(self, net: nn.Module, state: State, task: Task, data: Iterable[Batch]) -> State:
        self.check(net)
        images = [x for x, _ in data]
        kept = kept_share(self.pseudo_count, sum(map(len, images)))
        found = state
        for _ in range(self.rounds):
            shares = estimated_classes(logits_of(net, found, task, images), self.soft, self.corrected)
            adapted = loaded(net, state)
            take_statistics(adapted, images, self.images_at_once, task, kept=kept, weights=balancing_weights(shares))
            found = clone(adapted.state_dict())
        return found
