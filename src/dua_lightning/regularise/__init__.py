"""Regularisers: Lightning callbacks that make training on a new task remember the earlier ones."""

from dua_lightning.regularise.base import Regulariser, regularisation
from dua_lightning.regularise.ewc import EWC
from dua_lightning.regularise.l2_transfer import L2Transfer
from dua_lightning.regularise.lwf import LwF
from dua_lightning.regularise.mas import MAS
from dua_lightning.regularise.none import NoRegulariser
from dua_lightning.regularise.quadratic import QuadraticPenalty

__all__ = ["EWC", "MAS", "L2Transfer", "LwF", "NoRegulariser", "QuadraticPenalty", "Regulariser", "regularisation"]
