"""Networks: a shared body and one head whose columns belong to tasks."""

from dua_lightning.nets.adapter import with_head
from dua_lightning.nets.network import Network
from dua_lightning.nets.perceptron import mlp
from dua_lightning.nets.scenes import alexnet, vgg11, vgg11_bn
from dua_lightning.nets.timm import from_timm
from dua_lightning.nets.torchvision import from_torchvision

__all__ = ["Network", "alexnet", "from_timm", "from_torchvision", "mlp", "vgg11", "vgg11_bn", "with_head"]
