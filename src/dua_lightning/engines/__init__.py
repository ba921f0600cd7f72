"""The engines that compute users: in this process, in others beside it, or on a cluster. All give the same bits."""

from dua_lightning.engines.auto import Auto
from dua_lightning.engines.base import Engine, Shared, Work, Worker
from dua_lightning.engines.flower import Flower
from dua_lightning.engines.loky import Loky
from dua_lightning.engines.ray import Ray
from dua_lightning.engines.serial import Serial

__all__ = ["Auto", "Engine", "Flower", "Loky", "Ray", "Serial", "Shared", "Work", "Worker"]
