"""The diagonal of the Fisher information matrix, the importance of EWC and mode-IMM.

[Kirkpatrick2017] J. Kirkpatrick et al. Overcoming catastrophic forgetting in neural networks. PNAS 114(13), 2017.
[Kunstner2019] F. Kunstner, L. Balles, P. Hennig. Limitations of the empirical Fisher approximation for natural gradient
descent. NeurIPS 2019.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from dua_lightning.errors import InputError
from dua_lightning.importance.batchmean import mean_over_batches
from dua_lightning.importance.measurement import Precision
from dua_lightning.importance.persample import mean_over_samples
from dua_lightning.importance.scalars import log_likelihood, log_likelihood_sampled
from dua_lightning.params import Params
from dua_lightning.streams import generator
from dua_lightning.tasks import Batch, Expert


@dataclass(frozen=True)
class FIM:
    """Measure Omega = E_x (d log p(y | x) / d theta)^2, the softmax taken over the task's classes.

    It is the mean over samples of the squared per-sample gradient, whatever the batch size.

    Args:
        labels: `"true"` reads the data's labels: the empirical FIM of [Kunstner2019], used by EWC [Kirkpatrick2017].
            `"sampled"` draws each label from the model's own softmax: an unbiased estimate of the FIM that needs no
            labels. The i-th image of the data uses the i-th number of the stream `(seed, "labels", task)`, which is
            drawn on the processor for every device.
        seed: The seed of that stream.
        estimator: `"per_sample"`, or `"batch_mean"` as in the authors' release (see `batchmean.mean_over_batches`).
        floor: A number that is added to every entry; the release adds 1e-8.
        precision: As of `MAS`.

    Raises:
        InputError: `labels` or `floor` cannot be used.
    """

    labels: Literal["true", "sampled"] = "true"
    seed: int = 0
    estimator: Literal["per_sample", "batch_mean"] = "per_sample"
    floor: float = 0.0
    precision: Precision = "full"

    def __post_init__(self) -> None:
        if self.labels not in ("true", "sampled"):
            raise InputError(f"the labels of the FIM are 'true' or 'sampled', got {self.labels!r}")
        if not 0 <= self.floor < math.inf:
            raise InputError(f"the floor of the FIM is at least 0 and finite, got {self.floor}")

    @property
    def needs_labels(self) -> bool:
        return self.labels == "true"

    def __call__(self, net: nn.Module, expert: Expert, data: Iterable[Batch]) -> Params:
        stream = generator(self.seed, "labels", expert.task.name)

        def uniforms(x: Tensor, _: Tensor | None) -> Tensor:
            return torch.rand(len(x), generator=stream, dtype=torch.float64)

        def columns(_: Tensor, y: Tensor | None) -> Tensor:
            if y is None:
                raise InputError(
                    "the FIM of true labels needs labels, and these data have none; use MAS, or the FIM with "
                    "labels='sampled'"
                )
            return expert.task.columns(y)

        scalar, side = (log_likelihood, columns) if self.labels == "true" else (log_likelihood_sampled, uniforms)
        if self.estimator == "batch_mean":
            omega = mean_over_batches(net, expert, data, scalar, power=2, side=side)
        else:
            omega = mean_over_samples(net, expert, data, scalar, power=2, side=side, precision=self.precision)
        return {name: o + self.floor for name, o in omega.items()} if self.floor else omega
