"""The paper's supervised variant of AdaBN."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn

from dua_lightning.adapt.adabn import AtOnce, Moments, check_images_at_once, require_batch_norm, take_statistics
from dua_lightning.adapt.finetune import check_steps, descend
from dua_lightning.adapt.finite import require_finite
from dua_lightning.errors import InputError
from dua_lightning.params import State, batch_norm_affine, batch_norms, clone, loaded
from dua_lightning.tasks import Batch, Task


@dataclass(frozen=True)
class TunesBatchNorm:
    """Steps on gamma and beta: what AdaBN-S and the released one have in common.

    Args:
        epochs: The number of passes over the data.
        lr: The learning rate.
        momentum: The momentum of SGD, or Adam's first beta; its second one is 0.999.
        optimizer: `"sgd"`, the authors', or `"adam"`.

    Raises:
        InputError: A number cannot be used.
    """

    epochs: int = 5
    lr: float = 1e-3
    momentum: float = 0.9
    optimizer: Literal["sgd", "adam"] = "sgd"
    needs_labels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.epochs < 0:
            raise InputError(f"AdaBN-S takes 0 or more epochs, got {self.epochs}")
        check_steps(self.lr, self.momentum, "AdaBN-S")

    def check(self, net: nn.Module) -> None:
        require_batch_norm(net, "AdaBN-S")
        if not self.trainable(net):
            raise InputError("AdaBN-S trains gamma and beta, and no BatchNorm layer has them; use AdaBN")

    def trainable(self, net: nn.Module) -> int:
        return sum(p.numel() for layer in batch_norms(net) for p in layer.parameters())

    def normalised_together(self, sizes: Sequence[int]) -> int:
        return min(sizes, default=0)

    def tune(self, net: nn.Module, state: State, task: Task, data: Iterable[Batch]) -> None:
        """Train gamma and beta, the layers normalising by each batch's own statistics, in place.

        Args:
            net: The network, which has the tensors of the state; everything is computed on its device.
            state: The state.
            task: The task.
            data: Labelled batches.

        Raises:
            InputError: The data have no images or no labels, or a batch is too small to be normalised.
            DivergedError: The training diverges.
        """
        net.eval().requires_grad_(False)
        for layer in batch_norms(net):
            layer.train().requires_grad_(True)
        parameters = [p for layer in batch_norms(net) for p in layer.parameters()]
        optimizer: torch.optim.Optimizer = torch.optim.SGD(parameters, lr=self.lr, momentum=self.momentum)
        if self.optimizer == "adam":
            optimizer = torch.optim.Adam(parameters, lr=self.lr, betas=(self.momentum, 0.999))
        descend(net, optimizer, task, data, self.epochs)
        tuned = {name: parameter.detach() for name, parameter in batch_norm_affine(net).items()}
        require_finite(tuned, state, data, f"AdaBN-S on task {task.name}", self.lr)


@dataclass(frozen=True)
class AdaBNS(TunesBatchNorm):
    """Train gamma and beta of the batch-norm layers on the user's labels, all else frozen: AdaBN-S (Section 3.3).

    While they are trained the layers normalise by each batch's own statistics, and dropout is off. At the end the
    layers take the statistics of all of the user's images through the tuned model, as `AdaBN` does, so that they fit
    what is then evaluated. Only gamma, beta and the running statistics change.

    Args:
        images_at_once: The largest number of images in a pass for the statistics, as in `AdaBN`.
        statistics: The way in which the statistics are taken at the end, as in `AdaBN`. The other arguments are
            those of `TunesBatchNorm`.

    Raises:
        InputError: A number cannot be used, the data have no images or no labels, a batch is too small to be
            normalised, the training diverges, or `AdaBN` raises it.
    """

    images_at_once: AtOnce = "auto"
    statistics: Moments = "exact"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_images_at_once(self.images_at_once, "AdaBN-S")

    def __call__(self, net: nn.Module, state: State, task: Task, data: Iterable[Batch]) -> State:
        self.check(net)
        adapted = loaded(net, state)
        self.tune(adapted, state, task, data)
        take_statistics(adapted, [x for x, _ in data], self.images_at_once, task, self.statistics, self.lr)
        return clone(adapted.state_dict())
