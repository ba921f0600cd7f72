"""Networks: a shared body and one head whose columns belong to tasks."""

from dua_lightning.nets.network import Network
from dua_lightning.nets.zoo import mlp

__all__ = ["Network", "mlp"]
