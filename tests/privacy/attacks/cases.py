"""The network that is attacked: large enough that chance does not give a picture back."""

from dua_lightning.nets import mlp
from tests.helpers.nets import CLASSES, Case

WIDE = Case("wide", (2, 5, 5), lambda seed: mlp((2, 5, 5), CLASSES, seed, width=30))
