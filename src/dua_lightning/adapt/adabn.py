"""Adaptive batch normalisation.

[Li2016] Y. Li, N. Wang, J. Shi, J. Liu, X. Hou. Revisiting batch normalization for practical domain adaptation.
arXiv:1603.04779, 2016.
"""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dua_lightning.errors import InputError
from dua_lightning.params import State, clone
from dua_lightning.tasks import Batch, Task


@dataclass(frozen=True)
class AdaBN:
    """Each batch-norm layer takes the mean and variance of its input over all of the user's images; AdaBN of [Li2016].

    The statistics are those of the very model that is then used: one pass carries all images together, and a layer
    already normalises by its new statistics when the next layer's are taken. They are population moments over images
    and positions, so neither the order of the images nor their batches matter. Unsupervised: labels are never read,
    and only the buffers `running_mean` and `running_var` change.

    Raises `InputError` for a network without batch-norm layers with running statistics, and for empty data.
    """

    needs_labels: ClassVar[bool] = False

    def check(self, net: nn.Module) -> None:
        if not _layers(net):
            raise InputError(
                f"adapt=adabn needs BatchNorm layers with running statistics, and this {type(net).__name__} has none; "
                "use a model with batch normalisation, or adapt=none"
            )

    def __call__(self, net: nn.Module, state: State, task: Task, data: Iterable[Batch]) -> State:
        self.check(net)
        images = [x for x, _ in data]
        if not sum(map(len, images)):
            raise InputError(f"adapt=adabn needs at least one image of task {task.name}, and the user has none")
        adapted = copy.deepcopy(net)
        adapted.load_state_dict(state)
        adapted.eval()
        for layer in _layers(adapted):
            layer.register_forward_pre_hook(_take_statistics)
        with torch.no_grad():
            adapted(torch.cat(images))
        return clone(adapted.state_dict())


def _layers(net: nn.Module) -> list[_BatchNorm]:
    return [m for m in net.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


def _take_statistics(layer: nn.Module, args: tuple[Any, ...]) -> None:
    """Runs just before the layer normalises, so that it normalises by what is taken here."""
    assert isinstance(layer, _BatchNorm)
    assert layer.running_mean is not None
    assert layer.running_var is not None
    x: Tensor = args[0]
    over = [d for d in range(x.dim()) if d != 1]
    variance, mean = torch.var_mean(x, dim=over, correction=0)
    layer.running_mean.copy_(mean)
    layer.running_var.copy_(variance)
