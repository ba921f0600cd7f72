"""The adaptation that the authors' released code evaluates under the name of AdaBN."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from dua_lightning.adapt.adabn import require_batch_norm
from dua_lightning.params import State, batch_norm_affine, fitted
from dua_lightning.tasks import Batch, Task


@dataclass(frozen=True)
class AdaBNReleased:
    """Set gamma to 1 and beta to 0 in every batch-norm layer; the user's data are not read, and the statistics stay.

    The release resets its layers, gathers the user's statistics, and then copies only the layers' parameters to the
    model that it tests: the gathered statistics are lost, and the reset parameters are kept. Do not use it as a method;
    it is here to be compared with `AdaBN`.

    Raises:
        InputError: The network has no batch-norm layers, or the state is not one of it.
    """

    needs_labels: ClassVar[bool] = False

    def check(self, net: nn.Module) -> None:
        require_batch_norm(net, "AdaBN (released)")

    def trainable(self, net: nn.Module) -> int:
        return 0

    def __call__(self, net: nn.Module, state: State, task: Task, data: Iterable[Batch]) -> State:
        self.check(net)
        fitted(net, state)
        affine = [name for name in batch_norm_affine(net) if name in state]
        return {**state, **{n: torch.full_like(state[n], 1.0 if n.endswith("weight") else 0.0) for n in affine}}
