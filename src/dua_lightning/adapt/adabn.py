"""Adaptive batch normalisation.

[Li2016] Y. Li, N. Wang, J. Shi, J. Liu, X. Hou. Revisiting batch normalization for practical domain adaptation.
arXiv:1603.04779, 2016.
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # no public class is common to these layers

from dua_lightning.errors import InputError
from dua_lightning.params import State, batch_norms, clone, device_of, loaded, moved
from dua_lightning.tasks import Batch, Task

EMA_MOMENTUM = 0.1
"""The momentum of torchvision's batch-norm layers, which the release keeps."""


@dataclass(frozen=True)
class AdaBN:
    """Each batch-norm layer takes the mean and variance of its input over all of the user's images; AdaBN of [Li2016].

    The statistics are those of the very model that is then used: a layer already normalises by its new statistics when
    the next layer's are taken. They are population moments over images and positions, so neither the order of the
    images nor their batches matter. Unsupervised: labels are never read, and only the buffers `running_mean` and
    `running_var` change.

    Args:
        images_at_once: With `None` one forward pass carries all images together. With a number it carries that many, in
            as many passes over the data as there are layers, each up to the layer whose statistics it takes; the result
            is the same up to rounding.
        statistics: `"exact"`, or `"ema"`, which is what the release gathers, and then loses: from mean 0 and variance
            1, a running average (momentum 0.1) of the batches' own statistics, so that order and batches matter and
            0.9^batches of the start remain.

    Raises:
        InputError: The network has no batch-norm layers with running statistics, or the data are empty.
    """

    images_at_once: int | None = None
    statistics: Literal["exact", "ema"] = "exact"
    needs_labels: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.images_at_once is not None and self.images_at_once < 1:
            raise InputError(f"AdaBN takes at least 1 image at once, got {self.images_at_once}")

    def check(self, net: nn.Module) -> None:
        require_batch_norm(net, "AdaBN")

    def trainable(self, net: nn.Module) -> int:
        return 0

    def __call__(self, net: nn.Module, state: State, task: Task, data: Iterable[Batch]) -> State:
        self.check(net)
        adapted = loaded(net, state)
        if self.statistics == "exact":
            take_statistics(adapted, [x for x, _ in data], self.images_at_once, task)
        else:
            _average_batches(adapted, [x for x, _ in data])
        return clone(adapted.state_dict())


def require_batch_norm(net: nn.Module, adaptation: str) -> None:
    """Refuse a network without batch-norm layers that keep running statistics.

    Args:
        net: The network.
        adaptation: The adaptation's name, for the message.

    Raises:
        InputError: The network has no such layer.
    """
    if not batch_norms(net):
        raise InputError(
            f"{adaptation} needs BatchNorm layers with running statistics, and this {type(net).__name__} has "
            "none; use a network with batch normalisation, such as vgg11_bn, or no adaptation"
        )


def take_statistics(net: nn.Module, images: list[Tensor], images_at_once: int | None, task: Task) -> None:
    """Set the running statistics of a network, in place and in evaluation mode, to those of some images.

    Args:
        net: The network; it ends in evaluation mode.
        images: Batches of inputs, which are moved to the network's device.
        images_at_once: The number of images in a pass; all of them with `None`.
        task: The task, which is named in the error.

    Raises:
        InputError: There is no image.
    """
    count = sum(map(len, images))
    if not count:
        raise InputError(f"batch-norm statistics need at least one image of task {task.name}, and the user has none")
    net.eval()
    device = device_of(net.state_dict())
    with torch.no_grad():
        if images_at_once is None or images_at_once >= count:
            hooks = [layer.register_forward_pre_hook(_take) for layer in batch_norms(net)]
            net(moved(torch.cat(images), device))
            for hook in hooks:
                hook.remove()
        else:
            chunks = [chunk for x in images for chunk in x.split(images_at_once)]
            for layer in _in_order(net, moved(chunks[0], device)):
                _take_in_chunks(net, layer, chunks, device)


def _average_batches(net: nn.Module, batches: list[Tensor]) -> None:
    """One pass in train mode of the batch-norm layers, from statistics as they are built, in place."""
    net.eval()
    for layer in batch_norms(net):
        layer.reset_running_stats()
        layer.momentum = EMA_MOMENTUM
        layer.train()
    device = device_of(net.state_dict())
    with torch.no_grad():
        for x in batches:
            net(moved(x, device))


def _take(layer: nn.Module, args: tuple[Any, ...]) -> None:
    """Runs just before the layer normalises, so that it normalises by what is taken here."""
    assert isinstance(layer, _BatchNorm)
    variance, mean = torch.var_mean(args[0], dim=_over(args[0]), correction=0)
    _set(layer, mean, variance)


def _set(layer: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    assert layer.running_mean is not None
    assert layer.running_var is not None
    layer.running_mean.copy_(mean)
    layer.running_var.copy_(variance)


def _over(x: Tensor) -> list[int]:
    return [d for d in range(x.dim()) if d != 1]


def _in_order(net: nn.Module, x: Tensor) -> list[_BatchNorm]:
    """The layers in the order in which `x` passes them."""
    order: list[_BatchNorm] = []

    def note(layer: nn.Module, _: tuple[Any, ...]) -> None:
        assert isinstance(layer, _BatchNorm)
        order.append(layer)

    hooks = [layer.register_forward_pre_hook(note) for layer in batch_norms(net)]
    net(x)
    for hook in hooks:
        hook.remove()
    return order


class _ReachedError(Exception):
    """The pass has come to the layer it was for."""


def _take_in_chunks(net: nn.Module, layer: _BatchNorm, chunks: list[Tensor], device: torch.device) -> None:
    """Pool the moments of the layer's input over chunks, in float64: each about its own mean, then combined."""
    # Without float64 the chunks' own rounding remains; mps has none.
    wide = torch.float32 if device.type == "mps" else torch.float64
    parts: list[tuple[int, Tensor, Tensor]] = []

    def note(_: nn.Module, args: tuple[Any, ...]) -> None:
        x = args[0].to(wide)
        variance, mean = torch.var_mean(x, dim=_over(x), correction=0)
        parts.append((x.numel() // x.shape[1], mean, variance))
        raise _ReachedError

    hook = layer.register_forward_pre_hook(note)
    for chunk in chunks:
        with suppress(_ReachedError):
            net(moved(chunk, device))
    hook.remove()
    total = sum(n for n, _, _ in parts)
    mean = torch.stack([m * (n / total) for n, m, _ in parts]).sum(0)
    variance = torch.stack([(v + (m - mean).square()) * (n / total) for n, m, v in parts]).sum(0)
    _set(layer, mean, variance)
