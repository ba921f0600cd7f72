"""Correction of the head by the server's confusions, for users who do not have all classes equally often.

[Lipton2018] Z. Lipton, Y.-X. Wang, A. Smola. Detecting and correcting for label shift with black box predictors. ICML
2018.
[Azizzadenesheli2019] K. Azizzadenesheli, A. Liu, F. Yang, A. Anandkumar. Regularized learning for domain adaptation
under label shifts. ICLR 2019.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from dua_lightning.adapt.outputs import linear_head, logits_of, shifted_head
from dua_lightning.errors import InputError
from dua_lightning.params import State
from dua_lightning.tasks import Batch, Task

STEPS = 1000
"""Steps of Nesterov's projected gradient, with which shares of 50 classes are exact to five digits."""


def confusion(probabilities: Tensor, columns: Tensor) -> Tensor:
    """Compute the mean prediction for the images of each class.

    Args:
        probabilities: `(n, C)` a classifier's, each row with the sum 1.
        columns: `(n,)` the right class of each image.

    Returns:
        `(C, C)`; column c is the mean of the rows of class c, or the certain prediction of c where c has no image.
    """
    found = torch.eye(probabilities.shape[1], dtype=probabilities.dtype)
    for c in columns.unique().tolist():
        found[:, c] = probabilities[columns == c].mean(0)
    return found


def class_shares(confusions: Tensor, mean: Tensor, strength: float) -> Tensor:
    """Find the shares of the classes that explain a classifier's mean prediction by its confusions.

    They minimise |M q - p|^2 + strength |q - 1/C|^2 over all q that are not negative and have the sum 1, M the
    confusions and p the mean prediction: the soft form of [Lipton2018], held near even shares as [Azizzadenesheli2019]
    hold theirs, by another norm.

    Args:
        confusions: `(C, C)`, as `confusion` computes them.
        mean: `(C,)` the mean prediction on images of unknown shares.
        strength: The pull towards even shares, more than 0.

    Returns:
        `(C,)` the shares.
    """
    M, C = confusions.double(), len(mean)
    step = 1 / (torch.linalg.matrix_norm(M, 2) ** 2 + strength)
    shares = ahead = torch.full((C,), 1 / C, dtype=torch.float64)
    for n in range(STEPS):
        slope = M.T @ (M @ ahead - mean.double()) + strength * (ahead - 1 / C)
        before, shares = shares, _on_simplex(ahead - step * slope)
        ahead = shares + n / (n + 3) * (shares - before)
    return shares


@dataclass(frozen=True)
class BBSE:
    """Add the logarithm of the user's shares of the classes to the head's biases of the task; the rest stays as it is.

    The shares are those that explain the model's mean prediction on the user's unlabelled images by its confusions,
    which the server measures on its own labelled validation images and sends with the model: C^2 numbers. `LabelShift`
    needs nothing from the server, and believes the model's probabilities; this one asks how the model errs. The
    confusions must hold for the user's images: where these look different, put the statistics right first (`Chain`).

    Args:
        strength: The pull towards even shares, as in `class_shares`.
        floor: Added to every share, so that no class is ruled out by a few images.
        confusions: `(C, C)`, which `with_server` gives.

    Raises:
        InputError: A number cannot be used, there are no confusions, the head has no bias, the data are empty, or a
            logit is not finite.
    """

    strength: float = 0.03
    floor: float = 0.02
    confusions: Tensor | None = field(default=None, repr=False)
    needs_labels: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name, value in (("strength", self.strength), ("floor", self.floor)):
            if not 0 < value < math.inf:
                raise InputError(f"the {name} of BBSE is positive and finite, got {value}")

    def check(self, net: nn.Module) -> None:
        linear_head(net, "BBSE", bias=True)

    def trainable(self, net: nn.Module) -> int:
        return 0

    def with_server(self, net: nn.Module, state: State, task: Task, data: Iterable[Batch]) -> "BBSE":
        """Make the adaptation with the confusions of the model that the server is about to send.

        Args:
            net: The network that lends its architecture, a workspace.
            state: The task's state of the personal model.
            task: The task.
            data: The server's labelled validation batches of the task.

        Returns:
            The adaptation.
        """
        known = [(x, task.columns(y)) for x, y in data if y is not None]
        probabilities = logits_of(net, state, task, [x for x, _ in known]).softmax(1)
        return replace(self, confusions=confusion(probabilities, torch.cat([y for _, y in known])))

    def __call__(self, net: nn.Module, state: State, task: Task, data: Iterable[Batch]) -> State:
        self.check(net)
        if self.confusions is None:
            raise InputError(f"BBSE needs the server's confusions of task {task.name}, and has none; use with_server()")
        mean = logits_of(net, state, task, [x for x, _ in data]).softmax(1).mean(0)
        shares = class_shares(self.confusions, mean, self.strength) + self.floor
        return shifted_head(net, state, task, (shares * len(shares)).log(), "BBSE")


def _on_simplex(point: Tensor) -> Tensor:
    """The nearest point whose entries are not negative and have the sum 1."""
    falling = point.sort(descending=True).values
    excess = falling.cumsum(0) - 1
    count = torch.arange(1, len(point) + 1)
    last = int((falling * count > excess).sum()) - 1
    return (point - excess[last] / (last + 1)).clamp_min(0)
