"""Steps on the user's unlabelled images, by the gradient of a loss of the predictions."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from dua_lightning.adapt.adabn import AtOnce, Moments, check_images_at_once, take_statistics
from dua_lightning.adapt.finetune import Objective, check_steps, descend
from dua_lightning.adapt.finite import require_finite
from dua_lightning.errors import InputError
from dua_lightning.params import State, batch_norms, clone, loaded, norm_affine
from dua_lightning.tasks import Batch, Task


@dataclass(frozen=True)
class TunesWithoutLabels:
    """Steps on a loss that reads no label: what TENT, information maximisation, EATA and SAR have in common.

    They train the scale (gamma) and shift (beta) of the normalisation layers, of batch norm, layer norm, group norm and
    their like, and nothing else. A step is a batch of the data; `data.user_batch_size` sets its size, 20 by default,
    where the authors of these methods take 64 to 200. Dropout is off.

    While they are trained the batch-norm layers normalise by each batch's own statistics. At the end they take the
    statistics of all of the user's images through the tuned model, as `AdaBN` does, so that without an epoch the result
    is that of `AdaBN`. With `statistics="given"` they keep the given model's statistics, in the steps too. It is
    meant for users whose classes are uneven, whom the statistics of their own images harm.

    Args:
        epochs: The number of passes over the data.
        lr: The learning rate.
        optimizer: `"adam"` or `"sgd"`.
        momentum: The momentum of SGD, or Adam's first beta; its second one is 0.999.
        statistics: The way in which the statistics are taken at the end, as in `AdaBN`, or `"given"`.
        images_at_once: The largest number of images in a pass for the statistics, as in `AdaBN`.

    Raises:
        InputError: A number cannot be used, the network has nothing to train, the data have no images, a batch is too
            small to be normalised, the training diverges, or `AdaBN` raises it.
    """

    epochs: int = 1
    lr: float = 1e-3
    optimizer: Literal["adam", "sgd"] = "adam"
    momentum: float = 0.9
    statistics: Literal[Moments, "given"] = "exact"
    images_at_once: AtOnce = "auto"
    needs_labels: ClassVar[bool] = False
    name: ClassVar[str]

    def __post_init__(self) -> None:
        if self.epochs < 0:
            raise InputError(f"{self.name} takes 0 or more epochs, got {self.epochs}")
        check_steps(self.lr, self.momentum, self.name)
        check_images_at_once(self.images_at_once, self.name)

    def check(self, net: nn.Module) -> None:
        if not self._trained(net):
            raise InputError(
                f"{self.name} trains gamma and beta of normalisation layers, and this {type(net).__name__} has none; "
                "adapt by none or finetune, or use a network with normalisation, such as mobilenet_v2"
            )

    def trainable(self, net: nn.Module) -> int:
        return sum(p.numel() for p in self._trained(net).values())

    def normalised_together(self, sizes: Sequence[int]) -> int:
        # Given statistics are of the server's many images.
        return 2 if self.statistics == "given" else min(sizes, default=0)

    def _trained(self, net: nn.Module) -> dict[str, nn.Parameter]:
        """The parameters that are trained, by name."""
        return norm_affine(net)

    def _descent(self, net: nn.Module, task: Task, data: Iterable[Batch]) -> tuple[torch.optim.Optimizer, Objective]:
        """The optimizer and the loss of one training of a network, which is in the mode of the steps."""
        raise NotImplementedError

    def _plain_optimizer(self, net: nn.Module) -> torch.optim.Optimizer:
        """The optimizer that the arguments name."""
        parameters = list(self._trained(net).values())
        if self.optimizer == "adam":
            return torch.optim.Adam(parameters, lr=self.lr, betas=(self.momentum, 0.999))
        return torch.optim.SGD(parameters, lr=self.lr, momentum=self.momentum)

    def __call__(self, net: nn.Module, state: State, task: Task, data: Iterable[Batch]) -> State:
        self.check(net)
        tuned = loaded(net, state)
        if self.epochs:
            self._tune(tuned, state, task, data)
        if self.statistics != "given" and batch_norms(tuned):
            take_statistics(tuned, [x for x, _ in data], self.images_at_once, task, self.statistics, self.lr)
        return clone(tuned.state_dict())

    def _tune(self, net: nn.Module, state: State, task: Task, data: Iterable[Batch]) -> None:
        """Train the parameters in place."""
        net.eval().requires_grad_(False)
        if self.statistics != "given":
            for layer in batch_norms(net):
                layer.train()
        parameters = self._trained(net)
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        optimizer, objective = self._descent(net, task, data)
        descend(net, optimizer, task, data, self.epochs, objective)
        found = {name: parameter.detach() for name, parameter in parameters.items()}
        require_finite(found, state, data, f"{self.name} on task {task.name}", self.lr)


def entropies(logits: Tensor) -> Tensor:
    """Compute the entropy of each image's prediction.

    Args:
        logits: `(n, classes)`.

    Returns:
        `(n,)` entropies of the softmax, in nats.
    """
    log_p = logits.log_softmax(1)
    return -(log_p.exp() * log_p).sum(1)
