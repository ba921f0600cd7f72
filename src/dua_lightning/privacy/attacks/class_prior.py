"""The user's shares of classes from a prior, by regression on users that the server simulates.

[Ateniese2015] G. Ateniese, L. Mancini, A. Spognardi, A. Villani, D. Vitali, G. Felici. Hacking smart machines with
smarter ones. International Journal of Security and Networks 10(3), 2015.
[Shokri2017] R. Shokri, M. Stronati, C. Song, V. Shmatikov. Membership inference attacks against machine learning
models. IEEE S&P 2017.

A property of data is inferred from what was computed of them by a model that learnt it on other data [Ateniese2015],
which the attacker makes by the same computation on pictures of its own [Shokri2017].
"""

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from dua_lightning.tasks import Prior

PENALTIES = np.logspace(-1, 5, 13)
"""Penalties of the ridge regression, of which leave-one-out errors choose."""


def mean_features(prior: Prior) -> np.ndarray:
    """Summarise a prior by the means of its tensors' rows and columns.

    Args:
        prior: Omega.

    Returns:
        `(features,)`: for each tensor the log of its mean, and the means over each entry of its first and of its second
        dimension divided by it. A prior that has one number for each channel or layer gives these again.
    """
    found: list[torch.Tensor] = []
    for omega in (tensor.double().cpu() for tensor in prior.values()):
        mean = omega.mean().clamp(min=torch.finfo(torch.float64).tiny)
        found.append(mean.log()[None])
        for kept in range(min(2, omega.dim())):
            rest = [d for d in range(omega.dim()) if d != kept]
            found.append((omega.mean(rest) if rest else omega) / mean)
    return torch.cat(found).numpy()


def total_variation(guessed: np.ndarray, true: np.ndarray) -> float:
    """Compute the distance of two distributions over classes.

    Args:
        guessed: `(classes,)` shares.
        true: `(classes,)` shares.

    Returns:
        Half the sum of absolute differences: 0 for the same shares, 1 for no class in common.
    """
    return float(np.abs(guessed - true).sum() / 2)


class ClassPrior:
    """Learn to tell shares of classes from features of simulated users, by ridge regression.

    Args:
        features: The features of each simulated user, such as `mean_features` of a prior measured on as many pictures
            as the user had.
        shares: `(users, classes)` the true shares of each.
    """

    def __init__(self, features: Sequence[np.ndarray], shares: np.ndarray) -> None:
        self.mean = shares.mean(0)
        """`(classes,)` the mean of the simulated users: the guess of an attacker who got no prior."""
        self._model: Pipeline = make_pipeline(StandardScaler(), RidgeCV(PENALTIES))
        self._model.fit(np.stack(features), shares)

    def guess(self, features: np.ndarray) -> np.ndarray:
        """Guess a user's shares of classes.

        Args:
            features: Those of what the user sent.

        Returns:
            `(classes,)` shares: the regression's, brought into [0, 1] and to a sum of 1.
        """
        found: np.ndarray = self._model.predict(features[None])[0].clip(0, 1)
        total = found.sum()
        return np.asarray(found / total) if total else self.mean
