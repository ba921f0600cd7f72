"""psi: what matters to some data, mostly one non-negative number per weight, without the data leaving their owner."""

from dua_lightning.importance.averaged import Averaged, averaged
from dua_lightning.importance.base import Importance
from dua_lightning.importance.clipped import Clipped
from dua_lightning.importance.fim import FIM
from dua_lightning.importance.gram import Gram
from dua_lightning.importance.mas import MAS
from dua_lightning.importance.null import Noise, Permuted
from dua_lightning.importance.uniform import Uniform

__all__ = ["FIM", "MAS", "Averaged", "Clipped", "Gram", "Importance", "Noise", "Permuted", "Uniform", "averaged"]
