"""Regularisers: what training a new task on the server adds to the loss to remember the earlier ones."""

from dua_lightning.regularise.anchor import Anchor
from dua_lightning.regularise.base import Regulariser
from dua_lightning.regularise.distil import Distil
from dua_lightning.regularise.free import Free

__all__ = ["Anchor", "Distil", "Free", "Regulariser"]
