"""chi: experts and priors -> one personal model, without retraining."""

from dua_lightning.merge.base import Merge
from dua_lightning.merge.each import Each
from dua_lightning.merge.last import Last
from dua_lightning.merge.mean import Mean
from dua_lightning.merge.mode import Mode
from dua_lightning.merge.statistics import (
    LastStatistics,
    MeanStatistics,
    ServerStatistics,
    Statistics,
    TaskStatistics,
)

__all__ = [
    "Each",
    "Last",
    "LastStatistics",
    "Mean",
    "MeanStatistics",
    "Merge",
    "Mode",
    "ServerStatistics",
    "Statistics",
    "TaskStatistics",
]
