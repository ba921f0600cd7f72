"""phi: adaptation on the user's device. Needs torch alone."""

from dua_lightning.adapt.adabn import AdaBN
from dua_lightning.adapt.adabn_released import AdaBNReleased
from dua_lightning.adapt.adabn_s import AdaBNS
from dua_lightning.adapt.adabn_s_released import AdaBNSReleased
from dua_lightning.adapt.adamerging import AdaMerging
from dua_lightning.adapt.base import Adapt
from dua_lightning.adapt.finetune import Finetune
from dua_lightning.adapt.unchanged import Unchanged

__all__ = ["AdaBN", "AdaBNReleased", "AdaBNS", "AdaBNSReleased", "AdaMerging", "Adapt", "Finetune", "Unchanged"]
