"""Criteria by which a device can compare two models on its own images without labels.

[Lee2024] T. Lee, S. Chottananurak, T. Gong, S.-J. Lee. AETTA: label-free accuracy estimation for test-time adaptation.
CVPR 2024.
"""

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from dua_lightning.adapt.adabn import statistics_distance
from dua_lightning.adapt.balanced_bn import balancing_weights, estimated_classes
from dua_lightning.adapt.outputs import features_of, linear_head, logits_of, name_of
from dua_lightning.errors import InputError
from dua_lightning.params import State, loaded
from dua_lightning.streams import generator
from dua_lightning.tasks import Task

DROPOUT, DRAWS, ALPHA = 0.4, 10, 3
"""The rate of dropout, the number of draws and the exponent of [Lee2024]."""
LOOK = 0.2
"""The share of the layers, the earliest, that `look` looks at."""


class Criterion(Protocol):
    """Tells how good a state is for some unlabelled images, higher is better."""

    def __call__(self, net: nn.Module, given: State, state: State, task: Task, images: Sequence[Tensor]) -> float:
        """Judge a state.

        Args:
            net: The network that lends its architecture.
            given: The state before any adaptation.
            state: The state that is judged.
            task: The task.
            images: Batches of images that the state was not made of.

        Returns:
            The score.
        """


def entropy(net: nn.Module, given: State, state: State, task: Task, images: Sequence[Tensor]) -> float:
    """Judge a state by minus the mean entropy of its predictions, in nats.

    Args:
        net: The network that lends its architecture.
        given: The state before any adaptation, which is not looked at.
        state: The state that is judged.
        task: The task.
        images: Batches of images.

    Returns:
        The score; a model that is sure of one class for all images has the highest, 0.
    """
    return -float(_entropy(logits_of(net, state, task, images).softmax(1)).mean())


def information(net: nn.Module, given: State, state: State, task: Task, images: Sequence[Tensor]) -> float:
    """Judge a state by the mutual information of images and predictions, in nats.

    Args:
        net: The network that lends its architecture.
        given: The state before any adaptation, which is not looked at.
        state: The state that is judged.
        task: The task.
        images: Batches of images.

    Returns:
        The entropy of the mean prediction minus the mean entropy; it is high for predictions that are sure and evenly
        spread over the classes.
    """
    p = logits_of(net, state, task, images).softmax(1)
    return float(_entropy(p.mean(0)) - _entropy(p).mean())


def agreement(net: nn.Module, given: State, state: State, task: Task, images: Sequence[Tensor]) -> float:
    """Judge a state by how often an image and its mirror image are predicted to be of one class.

    Args:
        net: The network that lends its architecture.
        given: The state before any adaptation, which is not looked at.
        state: The state that is judged.
        task: The task, whose classes a mirror image should not change.
        images: Batches of images `(n, channels, height, width)`.

    Returns:
        The share of the images.

    Raises:
        InputError: The inputs are no images.
    """
    if images[0].dim() != 4:
        raise InputError(f"agreement compares images with mirror images, and inputs are {tuple(images[0].shape[1:])}")
    classes, mirrored = (
        logits_of(net, state, task, views).argmax(1) for views in (images, [x.flip(-1) for x in images])
    )
    return float((classes == mirrored).double().mean())


def aetta(net: nn.Module, given: State, state: State, task: Task, images: Sequence[Tensor]) -> float:
    """Judge a state by its accuracy as [Lee2024] estimate it.

    The error is estimated by how often dropout changes a prediction, divided by the third power of the entropy of the
    mean prediction in units of the largest one, which unmasks a model that predicts few classes; it is at most that of
    guessing. Dropout acts on the input of the head, as networks have no other place for it in common; the publication
    has it after blocks of a ResNet too. All states meet the same draws.

    Args:
        net: The network that lends its architecture, whose head is a linear layer.
        given: The state before any adaptation, which is not looked at.
        state: The state that is judged.
        task: The task.
        images: Batches of images.

    Returns:
        The estimated share of images that are predicted rightly.
    """
    features, logits = features_of(net, state, task, images)
    classes = logits.shape[1]
    if classes == 1:
        return 1.0
    weight = state[name_of(net, linear_head(net, "aetta").weight)][task.classes].cpu().double()
    stream = generator(0, "aetta", task.name)
    changed, mean = torch.zeros((), dtype=torch.float64), torch.zeros(classes, dtype=torch.float64)
    for _ in range(DRAWS):
        left = torch.rand(features.shape, generator=stream, dtype=torch.float64) >= DROPOUT
        dropped = logits + (features * (left / (1 - DROPOUT) - 1)) @ weight.T
        changed += (dropped.argmax(1) != logits.argmax(1)).double().mean() / DRAWS
        mean += dropped.softmax(1).mean(0) / DRAWS
    spread = max(float(_entropy(mean)) / math.log(classes), torch.finfo(torch.float32).tiny)
    return 1 - min(float(changed) / spread**ALPHA, 1 - 1 / classes)


def statistics(net: nn.Module, given: State, state: State, task: Task, images: Sequence[Tensor]) -> float:
    """Judge a state by how well its batch-norm statistics fit images that they were not taken of.

    It tells images that look different from images that are few: statistics of few images do not fit others. So that
    uneven classes are not taken for another look, every class counts the same, as in `BalancedBN`. It does not see the
    head: of two states with the same statistics neither is better.

    Args:
        net: The network that lends its architecture, which has batch-norm layers.
        given: The state before any adaptation, whose predictions balance the classes.
        state: The state that is judged.
        task: The task.
        images: Batches of images.

    Returns:
        Minus the `statistics_distance`.
    """
    weights = balancing_weights(estimated_classes(logits_of(net, given, task, images)))
    return -statistics_distance(loaded(net, state), images, weights)


def look(net: nn.Module, given: State, state: State, task: Task, images: Sequence[Tensor]) -> float:
    """Judge a state by how well the statistics of its earliest layers fit images that they were not taken of.

    These layers see how images look, and hardly what is on them, so that uneven classes are not taken for another look:
    `statistics` balances the classes by the model's predictions instead, and looks at all layers.

    Args:
        net: The network that lends its architecture, which has batch-norm layers.
        given: The state before any adaptation, which is not looked at.
        state: The state that is judged.
        task: The task.
        images: Batches of images.

    Returns:
        Minus the `statistics_distance` of the earliest `LOOK` of the layers.
    """
    weights = torch.ones(sum(map(len, images)), dtype=torch.float64)
    return -statistics_distance(loaded(net, state), images, weights, LOOK)


def likelihood(net: nn.Module, given: State, state: State, task: Task, images: Sequence[Tensor]) -> float:
    """Judge a state by how likely images are under the shares of the classes that its head assumes, in nats an image.

    It is the mean logarithm of the sum of the exponentials of its logits, in which a constant that was added to all
    biases does not count. Between a head that `LabelShift` or `BBSE` has corrected and the given one, the difference is
    the logarithm of how much more likely the images are under the user's shares of the classes. States that differ in
    anything but the head's biases cannot be compared so.

    Args:
        net: The network that lends its architecture, whose head has a bias.
        given: The state before any adaptation.
        state: The state that is judged.
        task: The task.
        images: Batches of images.

    Returns:
        The score.
    """
    name = name_of(net, linear_head(net, "likelihood", bias=True).bias)
    moved = (state[name] - given[name])[task.classes].cpu().double()
    constant = moved.logsumexp(0) - math.log(len(moved))
    return float(logits_of(net, state, task, images).logsumexp(1).mean() - constant)


def _entropy(p: Tensor) -> Tensor:
    found: Tensor = torch.special.entr(p).sum(-1)
    return found


CRITERIA: dict[str, Criterion] = {
    "entropy": entropy,
    "information": information,
    "agreement": agreement,
    "aetta": aetta,
    "statistics": statistics,
    "look": look,
    "likelihood": likelihood,
}
"""The criteria by name."""
