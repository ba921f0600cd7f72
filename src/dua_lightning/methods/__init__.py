"""Regularisers: what training a new task on the server adds to the loss to remember the earlier ones."""

from dua_lightning.methods.anchor import Anchor
from dua_lightning.methods.base import Regulariser
from dua_lightning.methods.distil import Distil
from dua_lightning.methods.free import Free

__all__ = ["Anchor", "Distil", "Free", "Regulariser"]
