"""Whether a picture is among those that a prior was measured on.

[Shokri2017] R. Shokri, M. Stronati, C. Song, V. Shmatikov. Membership inference attacks against machine learning
models. IEEE S&P 2017.

Membership of a model's training data is inferred from what the model says of a picture [Shokri2017]. A prior needs no
such statistics: it is a mean of non-negative terms, one for each image, so that n times the prior is at least the term
of every image of the user, weight by weight. A single weight at which it is less proves that a picture is not among
them. A mean over channels, layers or experts keeps this law.
"""

from typing import NamedTuple

import numpy as np
import torch

from dua_lightning.params import Params
from dua_lightning.privacy.attacks.base import Known, bootstrap
from dua_lightning.tasks import Batch, Prior

ROUNDING = 1e-4
"""The share of a tensor's largest entry below which a picture's own importances are rounding, and are not compared."""


class Auc(NamedTuple):
    """The area under the ROC curve and its 95 % bootstrap interval over pictures.

    Attributes:
        area: 0.5 where scores tell nothing, 1 where every member has a higher score than every other picture.
        low: The lower end.
        high: The upper end.
    """

    area: float
    low: float
    high: float


def coverage(known: Known, candidates: Batch) -> np.ndarray:
    """Score pictures by how far the prior covers what each of them would add to it.

    The score is log min_k n Omega_k / omega_k, omega the prior of the picture alone. It is at least 0 for each of the
    user's pictures, up to rounding, where the prior is sent as it was measured.

    Args:
        known: What the attacker knows.
        candidates: Pictures that the attacker has, `(m, ...)`, and their labels `(m,)` where the importance needs them.

    Returns:
        `(m,)` scores, higher for members; minus infinity where the prior is 0 at a weight that the picture needs.
    """
    x, y = candidates
    alone = (
        known.importance(known.net, known.expert, [(x[i : i + 1], None if y is None else y[i : i + 1])])
        for i in range(len(x))
    )
    return np.array([_covered(known.prior, known.images, own) for own in alone])


def auc(members: np.ndarray, others: np.ndarray, seed: int = 0) -> Auc:
    """Compute how well scores tell members from other pictures.

    Args:
        members: `(m,)` scores of the user's pictures.
        others: `(k,)` scores of pictures that are not the user's.
        seed: The seed of the bootstrap.

    Returns:
        The area under the ROC curve, and its interval.
    """
    return Auc(*bootstrap(_area, (members, others), seed))


def _area(members: np.ndarray, others: np.ndarray) -> float:
    """The share of pairs in the right order; ties count one half."""
    # The function of scikit-learn takes a hundred times as long for samples this small.
    a, b = members[:, None], others[None]
    return float((a > b).mean() + (a == b).mean() / 2)


def _covered(prior: Prior, images: int, own: Params) -> float:
    """The log of the least ratio of n times the prior to a picture's own, where the latter is more than rounding."""
    least = torch.tensor(torch.inf, dtype=torch.float64)
    for name, omega in own.items():
        some = omega > ROUNDING * omega.max()
        if some.any():
            ratios = prior[name][some].double() / omega[some].double()
            least = torch.minimum(least, images * ratios.min().cpu())
    return float(least.log())
