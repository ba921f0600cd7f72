"""What the authors' released code evaluates under the name of AdaBN."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from dua_lightning.adapt.adabn import require_batch_norm
from dua_lightning.params import State, batch_norms
from dua_lightning.tasks import Batch, Task


@dataclass(frozen=True)
class AdaBNReleased:
    """gamma = 1 and beta = 0 in every batch-norm layer; the statistics stay the server's, the user's data are unread.

    The release resets its layers, gathers the user's statistics, and then copies only the layers' parameters to the
    model that it tests: what it gathered is lost, and what it reset is kept. Not a method to use; it is here to be
    compared with `AdaBN`.
    """

    needs_labels: ClassVar[bool] = False

    def check(self, net: nn.Module) -> None:
        require_batch_norm(net, "adabn_released")

    def trainable(self, net: nn.Module) -> int:
        return 0

    def __call__(self, net: nn.Module, state: State, task: Task, data: Iterable[Batch]) -> State:
        self.check(net)
        layers = set(batch_norms(net))
        reset = dict(state)
        for prefix, module in net.named_modules():
            if module in layers and module.weight is not None:
                dot = f"{prefix}." if prefix else ""
                reset[f"{dot}weight"] = torch.ones_like(state[f"{dot}weight"])
                reset[f"{dot}bias"] = torch.zeros_like(state[f"{dot}bias"])
        return reset
