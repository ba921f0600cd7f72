"""chi: experts and priors -> one personal model, without retraining."""

from dua_lightning.merge.base import Merge
from dua_lightning.merge.each import Each
from dua_lightning.merge.last import Last
from dua_lightning.merge.magmax import MagMax
from dua_lightning.merge.mean import Mean
from dua_lightning.merge.mode import Mode
from dua_lightning.merge.regmean import RegMean
from dua_lightning.merge.statistics import (
    LastStatistics,
    MeanStatistics,
    ServerStatistics,
    Statistics,
    TaskStatistics,
)
from dua_lightning.merge.task_arithmetic import TaskArithmetic
from dua_lightning.merge.ties import TIES

__all__ = [
    "TIES",
    "Each",
    "Last",
    "LastStatistics",
    "MagMax",
    "Mean",
    "MeanStatistics",
    "Merge",
    "Mode",
    "RegMean",
    "ServerStatistics",
    "Statistics",
    "TaskArithmetic",
    "TaskStatistics",
]
