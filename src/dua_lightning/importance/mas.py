"""Memory Aware Synapses, the unsupervised importance.

[Aljundi2018] R. Aljundi, F. Babiloni, M. Elhoseiny, M. Rohrbach, T. Tuytelaars. Memory Aware Synapses: Learning what
(not) to forget. ECCV 2018.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from dua_lightning.importance.batchmean import mean_over_batches
from dua_lightning.importance.measurement import Precision
from dua_lightning.importance.persample import mean_over_samples
from dua_lightning.importance.scalars import squared_norm
from dua_lightning.params import Params
from dua_lightning.tasks import Batch, Expert


@dataclass(frozen=True)
class MAS:
    """Measure eq. (3): Omega = E_x | d ||F(x)||^2 / d theta |, F the logits of the task; MAS of [Aljundi2018].

    It is the mean over samples of the absolute per-sample gradient, whatever the batch size. Labels are never read. The
    paper prints no absolute value; without it the mean could be negative, and would be no precision.

    Args:
        estimator: `"per_sample"`, or `"batch_mean"` as in the authors' release (see `batchmean.mean_over_batches`).
        precision: `"full"`, or `"bf16"`: autocast runs the passes in bfloat16, which is faster where the device
            computes in it; sums stay float32.
    """

    estimator: Literal["per_sample", "batch_mean"] = "per_sample"
    precision: Precision = "full"
    needs_labels: ClassVar[bool] = False

    def __call__(self, net: nn.Module, expert: Expert, data: Iterable[Batch]) -> Params:
        if self.estimator == "batch_mean":
            return mean_over_batches(net, expert, data, squared_norm, power=1)
        return mean_over_samples(net, expert, data, squared_norm, power=1, precision=self.precision)
