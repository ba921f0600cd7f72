"""Attacks on a prior by whoever receives it: tests of the claim that a prior conceals the user's images.

Nobody has published an attack on importances. Each file here derives one from a published attack on gradients, models
or statistics, and says from which. None is the strongest that there can be: where all of them fail, nothing is proven.
"""

from dua_lightning.privacy.attacks.base import Interval, Known, bootstrap, t_interval
from dua_lightning.privacy.attacks.class_prior import ClassPrior, mean_features, total_variation
from dua_lightning.privacy.attacks.factorisation import Factors, correlations, factorise, matched, patches
from dua_lightning.privacy.attacks.inversion import invert
from dua_lightning.privacy.attacks.membership import Auc, auc, coverage
from dua_lightning.privacy.attacks.statistics import channel_means, statistics_features

__all__ = [
    "Auc",
    "ClassPrior",
    "Factors",
    "Interval",
    "Known",
    "auc",
    "bootstrap",
    "channel_means",
    "correlations",
    "coverage",
    "factorise",
    "invert",
    "matched",
    "mean_features",
    "patches",
    "statistics_features",
    "t_interval",
    "total_variation",
]
