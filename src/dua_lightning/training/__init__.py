"""Training of experts on the server, with Lightning."""

from dua_lightning.training.fit import Fitted, Training, fit
from dua_lightning.training.linear_probing import LinearProbing
from dua_lightning.training.module import ExpertModule
from dua_lightning.training.plateau import Plateau

__all__ = ["ExpertModule", "Fitted", "LinearProbing", "Plateau", "Training", "fit"]
