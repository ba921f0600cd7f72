"""Test entropy minimisation.

[Wang2021] D. Wang, E. Shelhamer, S. Liu, B. Olshausen, T. Darrell. Tent: fully test-time adaptation by entropy
minimization. ICLR 2021.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from dua_lightning.adapt.finetune import Objective
from dua_lightning.adapt.without_labels import TunesWithoutLabels, entropies
from dua_lightning.tasks import Batch, Task


@dataclass(frozen=True)
class TENT(TunesWithoutLabels):
    """Train gamma and beta so that predictions become certain: TENT of [Wang2021].

    The loss is the mean entropy of the softmax over the task's classes. The defaults are the authors' of small images
    (Adam, learning rate 0.001, one pass, there in batches of 200); for ImageNet they take SGD at 0.00025 and batches of
    64. They predict each batch just after its step, from its own statistics; here the images that are predicted later
    are others, so that the statistics are taken of all images at the end.

    All arguments are those of `TunesWithoutLabels`.

    Raises:
        InputError: `TunesWithoutLabels` raises it.
    """

    name: ClassVar[str] = "TENT"

    def _descent(self, net: nn.Module, task: Task, data: Iterable[Batch]) -> tuple[torch.optim.Optimizer, Objective]:
        return self._plain_optimizer(net), lambda logits, _: entropies(logits).mean()
