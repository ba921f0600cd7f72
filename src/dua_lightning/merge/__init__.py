"""chi: experts and priors -> one personal model, without retraining."""

from dua_lightning.merge.base import Merge
from dua_lightning.merge.each import Each
from dua_lightning.merge.last import Last
from dua_lightning.merge.mode import Mode

__all__ = ["Each", "Last", "Merge", "Mode"]
