"""phi: adaptation on the user's device. Needs torch alone."""

from dua_lightning.adapt.adabn import AdaBN
from dua_lightning.adapt.base import Adapt
from dua_lightning.adapt.finetune import Finetune
from dua_lightning.adapt.unchanged import Unchanged

__all__ = ["AdaBN", "Adapt", "Finetune", "Unchanged"]
