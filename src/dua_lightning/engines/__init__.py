"""Where users are computed: in this process, in others beside it, or on a cluster. All give the same bits."""

from dua_lightning.engines.base import Engine, Job, Shared, Worker
from dua_lightning.engines.joblib import Joblib
from dua_lightning.engines.ray import Ray
from dua_lightning.engines.serial import Serial

__all__ = ["Engine", "Job", "Joblib", "Ray", "Serial", "Shared", "Worker"]
