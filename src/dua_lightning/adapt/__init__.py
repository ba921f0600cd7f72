"""phi: adaptation on the user's device. Needs torch alone."""

from dua_lightning.adapt.adabn import AdaBN
from dua_lightning.adapt.adabn_released import AdaBNReleased
from dua_lightning.adapt.adabn_s import AdaBNS
from dua_lightning.adapt.adabn_s_released import AdaBNSReleased
from dua_lightning.adapt.adamerging import AdaMerging
from dua_lightning.adapt.alpha_bn import AlphaBN
from dua_lightning.adapt.atp import ATP
from dua_lightning.adapt.auto import Auto
from dua_lightning.adapt.balanced_bn import BalancedBN
from dua_lightning.adapt.base import Adapt
from dua_lightning.adapt.bbse import BBSE
from dua_lightning.adapt.chain import Chain
from dua_lightning.adapt.early_bn import EarlyBN
from dua_lightning.adapt.eata import EATA
from dua_lightning.adapt.few import Few
from dua_lightning.adapt.finetune import Finetune
from dua_lightning.adapt.infomax import InformationMaximisation
from dua_lightning.adapt.label_shift import LabelShift
from dua_lightning.adapt.sar import SAR
from dua_lightning.adapt.t3a import T3A
from dua_lightning.adapt.tent import TENT
from dua_lightning.adapt.unchanged import Unchanged

__all__ = [
    "ATP",
    "BBSE",
    "EATA",
    "SAR",
    "T3A",
    "TENT",
    "AdaBN",
    "AdaBNReleased",
    "AdaBNS",
    "AdaBNSReleased",
    "AdaMerging",
    "Adapt",
    "AlphaBN",
    "Auto",
    "BalancedBN",
    "Chain",
    "EarlyBN",
    "Few",
    "Finetune",
    "InformationMaximisation",
    "LabelShift",
    "Unchanged",
]
