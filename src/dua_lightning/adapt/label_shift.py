"""Correction of the head for users who do not have all classes equally often.

[Saerens2002] M. Saerens, P. Latinne, C. Decaestecker. Adjusting the outputs of a classifier to new a priori
probabilities: a simple procedure. Neural Computation 14(1), 2002.
[Alexandari2020] A. Alexandari, A. Kundaje, A. Shrikumar. Maximum likelihood with bias-corrected calibration is
hard-to-beat at label shift adaptation. ICML 2020.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dua_lightning.adapt.alpha_bn import check_pseudo_count
from dua_lightning.adapt.outputs import linear_head, logits_of, shifted_head
from dua_lightning.errors import InputError
from dua_lightning.params import State
from dua_lightning.tasks import Batch, Task


def class_prior(
    probabilities: Tensor,
    source: Tensor | None = None,
    pseudo_count: float = 0.0,
    tolerance: float = 1e-6,
    iterations: int = 1000,
) -> Tensor:
    """Estimate the shares of the classes from a classifier's probabilities alone, by the EM of [Saerens2002].

    They are the class prior under which the images are most likely, where the classes look as they did in training and
    only their frequencies differ.

    A library for it, QuaPy, would bring scikit-learn, pandas and others for ten lines; the tests compare with it.

    Args:
        probabilities: `(n, classes)` the classifier's, each row with the sum 1.
        source: `(classes,)` the shares that it was trained with; by default all classes alike.
        pseudo_count: Images of each class, shared out by `source`, that are added to those which are counted: the mode
            under a Dirichlet prior. They hold back an estimate of few images.
        tolerance: The change of a probability below which the iteration ends.
        iterations: The largest number of iterations.

    Returns:
        `(classes,)` the shares, with the sum 1.
    """
    n, classes = probabilities.shape
    source = torch.full_like(probabilities[0], 1 / classes) if source is None else source
    prior = source
    for _ in range(iterations):
        counts = posterior(probabilities, prior, source).sum(0)
        before, prior = prior, (counts + pseudo_count * classes * source) / (n + pseudo_count * classes)
        if (prior - before).abs().max() < tolerance:
            break
    return prior


def posterior(probabilities: Tensor, prior: Tensor, source: Tensor) -> Tensor:
    """Compute the probabilities that a classifier would give, had it been trained with other shares of the classes.

    Args:
        probabilities: `(n, classes)` the classifier's.
        prior: `(classes,)` the other shares.
        source: `(classes,)` the shares that it was trained with.

    Returns:
        `(n, classes)`, each row with the sum 1.
    """
    weighted = probabilities * (prior / source)
    return weighted / weighted.sum(1, keepdim=True)


@dataclass(frozen=True)
class LabelShift:
    """Add the logarithm of the user's shares of the classes to the head's biases of the task; the rest stays as it is.

    The shares are estimated by `class_prior` from the model's softmax on the user's unlabelled images ([Alexandari2020]
    call it MLLS). The server has trained on all classes alike, so that the corrected logits are logits + log(shares) up
    to a constant. Even shares change nothing. The model must fit the user's images: where these look different, adapt
    the statistics first (`Chain`).

    Args:
        pseudo_count: Images of each class that are added to those which are counted, as in `class_prior`.
        temperature: T of the softmax over logits / T, for a network that is too sure of itself; the correction is T
            times the logarithm.

    Raises:
        InputError: A number cannot be used, the head has no bias, the data are empty, or a logit is not finite.
    """

    pseudo_count: float = 1.0
    temperature: float = 1.0
    needs_labels: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_pseudo_count(self.pseudo_count, "label-shift correction")
        if not 0 < self.temperature < math.inf:
            raise InputError(
                f"the temperature of label-shift correction is positive and finite, got {self.temperature}"
            )

    def check(self, net: nn.Module) -> None:
        linear_head(net, "label-shift correction", bias=True)

    def trainable(self, net: nn.Module) -> int:
        return 0

    def __call__(self, net: nn.Module, state: State, task: Task, data: Iterable[Batch]) -> State:
        self.check(net)
        probabilities = (logits_of(net, state, task, [x for x, _ in data]) / self.temperature).softmax(1)
        prior = class_prior(probabilities, pseudo_count=self.pseudo_count)
        # No class is ruled out for ever by the images of one day.
        shift = self.temperature * (prior.clamp_min(torch.finfo(torch.float32).tiny) * len(prior)).log()
        return shifted_head(net, state, task, shift, "label-shift correction")
