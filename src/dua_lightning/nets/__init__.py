"""Networks: a shared body and one head whose columns belong to tasks."""

from dua_lightning.nets.network import Network
from dua_lightning.nets.perceptron import mlp
from dua_lightning.nets.scenes import alexnet, vgg11, vgg11_bn

__all__ = ["Network", "alexnet", "mlp", "vgg11", "vgg11_bn"]
