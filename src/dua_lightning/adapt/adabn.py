"""Adaptive batch normalisation.

[Li2016] Y. Li, N. Wang, J. Shi, J. Liu, X. Hou. Revisiting batch normalization for practical domain adaptation.
arXiv:1603.04779, 2016.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # no public class is common to these layers

from dua_lightning.adapt.finite import require_finite
from dua_lightning.errors import InputError
from dua_lightning.params import State, batch_norms, clone, device_of, eval_mode, inputs, loaded, moved
from dua_lightning.tasks import Batch, Task, refusing_batch

EMA_MOMENTUM = 0.1
"""The momentum of torchvision's batch-norm layers, which the release keeps."""
NUMBERS_AT_ONCE = 256 * 3 * 224**2
"""Numbers in the images of a pass by default: 256 images of 224 pixels (about 6 GiB of VGG11-BN), or 1,393 of 96.

In parts, exact statistics cost as many forward passes as half the uses of layers: 26 for MobileNetV2.
"""

AtOnce = int | Literal["auto"] | None
"""The largest number of images in a pass; `None` for all, and `"auto"` for those of `NUMBERS_AT_ONCE`."""
Moments = Literal["exact", "batch", "ema"]
"""The ways in which statistics are taken; see `AdaBN`."""


@dataclass(frozen=True)
class AdaBN:
    """Each batch-norm layer takes the mean and variance of its input over all of the user's images; AdaBN of [Li2016].

    The statistics are those of the very model that is then used: a layer already normalises by its new statistics when
    the next layer's are taken. They are population moments over images and positions, so neither the order of the
    images nor their batches matter. Unsupervised: labels are never read, and only the buffers `running_mean` and
    `running_var` change.

    A layer that a pass goes through several times (Siamese branches, recurrent blocks) keeps one mean and variance for
    all its uses: the moments of all their inputs together. While they are taken each use normalises by its own moments,
    as it does in training, because the moments of later uses are not known yet. So adapting again changes nothing, but
    the model that is then used normalises each use by the pooled moments. A layer that no pass reaches keeps its
    statistics.

    Args:
        images_at_once: The largest number of images in a forward pass, which bounds the memory; `None` for all, and
            `"auto"` for 256 of 224 pixels, or as many as have together as many numbers. Where there are more, exact
            statistics take as many passes over the data as there are uses of layers, each up to the use whose moments
            it takes; the result is the same up to rounding.
        statistics: `"exact"`, or one of two that take a single pass over the batches as they are given, so that order
            and batches matter. With `"batch"` each batch is normalised by its own moments, and the moments are pooled.
            `"ema"` is what the release gathers, and then loses: from mean 0 and variance 1, a running average (momentum
            0.1) of the batches' own statistics, so that 0.9^batches of the start remain.

    Raises:
        InputError: The network has no batch-norm layers with running statistics or its passes reach none, the data are
            empty, a layer gets a single number for each channel, which has no variance, or the moments are not finite.
    """

    images_at_once: AtOnce = "auto"
    statistics: Moments = "exact"
    needs_labels: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_images_at_once(self.images_at_once, "AdaBN")

    def check(self, net: nn.Module) -> None:
        require_batch_norm(net, "AdaBN")

    def trainable(self, net: nn.Module) -> int:
        return 0

    def normalised_together(self, sizes: Sequence[int]) -> int:
        return sum(sizes) if self.statistics == "exact" else min(sizes, default=0)

    def __call__(self, net: nn.Module, state: State, task: Task, data: Iterable[Batch]) -> State:
        self.check(net)
        adapted = loaded(net, state)
        take_statistics(adapted, [x for x, _ in data], self.images_at_once, task, self.statistics)
        return clone(adapted.state_dict())


def check_images_at_once(images_at_once: AtOnce, adaptation: str) -> None:
    """Refuse a number of images that no pass can carry.

    Args:
        images_at_once: The number of images in a pass, as in `AdaBN`.
        adaptation: The adaptation's name, for the message.

    Raises:
        InputError: It is less than 1.
    """
    if isinstance(images_at_once, int) and images_at_once < 1:
        raise InputError(f"{adaptation} takes at least 1 image at once, got {images_at_once}")


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
            "none; adapt by none or finetune, or use a network with batch normalisation, such as mobilenet_v2"
        )


def one_is_too_few(net: nn.Module, shape: tuple[int, ...]) -> bool:
    """Tell whether one image alone cannot be normalised by its own moments.

    Args:
        net: The network; it stays as it is.
        shape: The shape of one input.

    Returns:
        Whether a batch-norm layer gets a single number for each channel from one image, as on rows of a table or where
        maps have shrunk to one position.
    """
    layers = [layer for layer in net.modules() if isinstance(layer, _BatchNorm)]
    numbers: list[int] = []
    if layers:
        with eval_mode(net), torch.no_grad(), _before(layers, lambda _, x: numbers.append(x.numel() // x.shape[1])):
            # A layer without running statistics refuses a single image in every mode.
            net(torch.zeros(2, *shape, device=device_of(net.state_dict())))
    return min(numbers, default=3) <= 2


def in_order(net: nn.Module, images: Tensor) -> list[_BatchNorm]:
    """List the batch-norm layers with running statistics in the order in which a pass reaches them first.

    Args:
        net: The network; it stays as it is.
        images: `(n, ...)` some inputs.

    Returns:
        The layers, each once; those that the pass does not reach are left out.
    """
    reached: dict[_BatchNorm, None] = {}
    with eval_mode(net), torch.no_grad(), _before(batch_norms(net), lambda layer, _: reached.setdefault(layer)):
        net(inputs(net, images, device_of(net.state_dict())))
    return list(reached)


def take_statistics(
    net: nn.Module,
    images: Sequence[Tensor],
    images_at_once: AtOnce,
    task: Task,
    statistics: Moments = "exact",
    lr: float | None = None,
    kept: float = 0.0,
    weights: Tensor | None = None,
    layers: Sequence[_BatchNorm] | None = None,
) -> None:
    """Set the running statistics of a network, in place and in evaluation mode, to those of some images.

    Args:
        net: The network; it ends in evaluation mode.
        images: Batches of inputs, which are moved to the network's device.
        images_at_once: The largest number of images in a pass for exact statistics, as in `AdaBN`.
        task: The task, which is named in errors.
        statistics: The way in which they are taken; see `AdaBN`.
        lr: The learning rate, where the network has been trained on these images before.
        kept: The share of the network's own statistics in the new ones, from 0 to 1: each layer's mean and variance are
            `kept` times its own plus `1 - kept` times the images' moments. A layer already normalises by that mixture
            when the next layer's moments are taken. Not for `"ema"`.
        weights: `(n,)` how much each image counts in the moments, in the order of the images and not negative, for
            exact statistics; by default all count the same.
        layers: The layers whose statistics are taken, some of `batch_norms(net)`; the others keep their own, and
            normalise by them meanwhile. By default all are. Not for `"ema"`.

    Raises:
        InputError: There is no image, no layer is reached, a layer gets a single number for each channel of which
            nothing else is known, the network cuts images into several inputs and they have weights, or the moments
            are not finite.
        DivergedError: They are not, and nothing but the training can be the cause.
    """
    batches = [x for x in images if len(x)]
    if not batches:
        raise InputError(f"batch-norm statistics need at least one image of task {task.name}, and there is none")
    if statistics == "exact":
        together = torch.cat(batches)
        if images_at_once == "auto":
            images_at_once = max(1, NUMBERS_AT_ONCE // max(1, together[0].numel()))
        batches = list(together.split(images_at_once or len(together)))
    counts = [None] * len(batches) if weights is None else weights.split([len(x) for x in batches])
    parts = list(zip(batches, counts, strict=True))
    # A compiled network would compile the hooks too; it shares its layers with the one that it was made of.
    net = getattr(net, "_orig_mod", net)
    net.eval()
    with torch.no_grad():
        write = _Writer(net, kept)
        taking = batch_norms(net) if layers is None else layers
        if statistics == "ema":
            reached = _average(net, batches, task)
        elif statistics == "batch" or len(batches) == 1:
            reached = _pool([use for part in parts for use in _uses_of(net, taking, part, task, write)], write)
        else:
            reached = _pool(_uses_over_chunks(net, taking, parts, task, write), write)
    if not reached:
        raise InputError(
            f"batch-norm statistics of task {task.name} cannot be taken: no pass of this {type(net).__name__} reaches "
            "a BatchNorm layer that keeps them; use no adaptation"
        )
    state, taken = net.state_dict(), _statistics_of(net, reached)
    given = {name: tensor for name, tensor in state.items() if name not in taken}
    require_finite(taken, given, [(x, None) for x in images], f"taking batch-norm statistics on task {task.name}", lr)


def statistics_distance(net: nn.Module, images: Sequence[Tensor], weights: Tensor, share: float = 1.0) -> float:
    """Compute how far the statistics of a network are from the moments of some images through it.

    It is the Bhattacharyya distance of two normal distributions with means m and M and variances v and V, to which the
    layer's epsilon is added: (m - M)^2 / (4 (v + V)) + log((v + V) / (2 sqrt(v V))) / 2, averaged over all channels of
    the layers that a pass reaches, or of the earliest of them.

    Args:
        net: The network, a workspace that is left as it was; it normalises by its own statistics.
        images: Batches of inputs, which are moved to the network's device.
        weights: `(n,)` how much each image counts, in the order of the images and not negative.
        share: The share of the layers that are looked at, the earliest in a pass; a part of a layer counts as one.

    Returns:
        The distance, 0 where the two are the same.
    """
    of_layer: dict[_BatchNorm, list[_Moments]] = {}

    def note(counts: Tensor, layer: _BatchNorm, x: Tensor) -> None:
        of_layer.setdefault(layer, []).append(_moments(x, counts))

    device = device_of(net.state_dict())
    with eval_mode(net), torch.no_grad():
        for x, counts in zip(images, weights.split([len(x) for x in images]), strict=True):
            with _before(batch_norms(net), partial(note, counts)):
                net(inputs(net, x, device))
    channels = []
    early = list(of_layer.items())[: math.ceil(share * len(of_layer))]
    for layer, found in ((layer, _pooled(parts)) for layer, parts in early):
        assert layer.running_mean is not None
        assert layer.running_var is not None
        one, other = found.variance + layer.eps, _wide(layer.running_var) + layer.eps
        apart = (found.mean - _wide(layer.running_mean)).square() / (one + other) / 4
        channels.append(apart + ((one + other) / (one * other).sqrt() / 2).log() / 2)
    return float(torch.cat(channels).mean()) if channels else 0.0


class _Moments(NamedTuple):
    """Mean and population variance of each channel, how many numbers of a channel they are of, and their weight."""

    numbers: int
    weight: float
    mean: Tensor
    variance: Tensor


class _Use(NamedTuple):
    """One use of a layer in a pass, and the moments of its input."""

    layer: _BatchNorm
    moments: _Moments


class _ReachedError(Exception):
    """The pass has come to the first use whose moments are not known yet."""

    def __init__(self, use: _Use) -> None:
        super().__init__()
        self.use = use


_Part = tuple[Tensor, Tensor | None]
"""Images that go through the network together, and how much each counts."""


class _Writer:
    """Gives a layer its statistics: a mixture of those that it had at the start and some moments."""

    def __init__(self, net: nn.Module, kept: float) -> None:
        self.kept = kept
        # Two layers may share their statistics.
        self.given = {
            id(layer.running_mean): clone({"mean": layer.running_mean, "variance": layer.running_var})
            for layer in batch_norms(net)
            if kept and layer.running_mean is not None and layer.running_var is not None
        }

    def __call__(self, layer: _BatchNorm, moments: _Moments) -> None:
        assert layer.running_mean is not None
        assert layer.running_var is not None
        mean, variance = moments.mean, moments.variance
        if self.kept:
            given = self.given[id(layer.running_mean)]
            mean = self.kept * given["mean"] + (1 - self.kept) * mean
            variance = self.kept * given["variance"] + (1 - self.kept) * variance
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(variance)


def _uses_of(net: nn.Module, layers: Sequence[_BatchNorm], part: _Part, task: Task, write: _Writer) -> list[_Use]:
    """One pass over some images, in which every use normalises by the moments of its own input."""
    images, weights = part
    uses: list[_Use] = []

    def note(layer: _BatchNorm, x: Tensor) -> None:
        uses.append(_Use(layer, _moments(x, weights)))
        _set(net, uses[-1], task, write)

    with _before(layers, note):
        net(inputs(net, images, device_of(net.state_dict())))
    return uses


def _uses_over_chunks(
    net: nn.Module, layers: Sequence[_BatchNorm], chunks: Sequence[_Part], task: Task, write: _Writer
) -> list[_Use]:
    """A pass over all chunks for each use, up to it, in which the uses before it normalise by their moments over all.

    A pass begins at the images again. To hold each chunk's activations at the use instead, a network would have to be
    entered in its middle, which no `forward` offers, and all chunks' activations would be in memory at once.
    """
    uses: list[_Use] = []
    while True:
        found = [_next_use(net, layers, uses, chunk, task, write) for chunk in chunks]
        if found[0] is None:
            return uses
        if any(use is None or use.layer is not found[0].layer for use in found):
            raise InputError(
                f"exact batch-norm statistics of task {task.name} cannot be taken in several passes: the way through "
                f"this {type(net).__name__} depends on the images; raise images_at_once, or take those of each batch"
            )
        uses.append(_Use(found[0].layer, _pooled([use.moments for use in found if use is not None])))


def _next_use(
    net: nn.Module, layers: Sequence[_BatchNorm], known: Sequence[_Use], part: _Part, task: Task, write: _Writer
) -> _Use | None:
    """The first use that is not known, by a pass that ends there; none where all are known."""
    images, weights = part
    left = iter(known)

    def note(layer: _BatchNorm, x: Tensor) -> None:
        use = next(left, None)
        if use is None:
            raise _ReachedError(_Use(layer, _moments(_wide(x), weights)))
        _set(net, use, task, write)

    try:
        with _before(layers, note):
            net(inputs(net, images, device_of(net.state_dict())))
    except _ReachedError as reached:
        return reached.use
    return None


def _average(net: nn.Module, batches: Sequence[Tensor], task: Task) -> set[_BatchNorm]:
    """One pass in train mode of the batch-norm layers, from statistics as they are built; the layers it reaches."""
    device = device_of(net.state_dict())
    reached: set[_BatchNorm] = set()

    def note(layer: _BatchNorm, _: Tensor) -> None:
        if layer not in reached:
            reached.add(layer)
            layer.reset_running_stats()

    for layer in batch_norms(net):
        layer.momentum = EMA_MOMENTUM
        layer.train()
    with _before(batch_norms(net), note):
        for x in batches:
            with refusing_batch(x, task):
                net(inputs(net, x, device))
    net.eval()
    return reached


@contextmanager
def _before(layers: Iterable[_BatchNorm], note: Callable[[_BatchNorm, Tensor], None]) -> Iterator[None]:
    """Calls `note` with each layer and its input just before the layer normalises it."""

    def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        assert isinstance(layer, _BatchNorm)
        x: Tensor = args[0] if args else kwargs["input"]
        # An empty input leaves a layer as it is.
        if x.numel():
            note(layer, x)

    hooks = [layer.register_forward_pre_hook(hook, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()


def _moments(x: Tensor, weights: Tensor | None) -> _Moments:
    """The moments by two means: `torch.var_mean` takes 2 to 12 times as long over several dimensions on a processor.

    With it AdaBN of MobileNetV2 at 96 pixels took twice as long (77 images, one thread: 14.9 ms and 7.6 ms an image).
    """
    numbers = x.numel() // x.shape[1]
    if weights is not None:
        return _weighted(x, weights, numbers)
    dims = [d for d in range(x.dim()) if d != 1]
    mean = x.mean(dims, keepdim=True)
    return _Moments(numbers, numbers, mean.flatten(), (x - mean).square_().mean(dims))


def _weighted(x: Tensor, weights: Tensor, numbers: int) -> _Moments:
    """The moments in which each image counts by its weight, and all its positions the same."""
    if len(weights) != len(x):
        raise InputError(
            f"{len(weights)} weighted images reach a BatchNorm layer as {len(x)} inputs, so that nobody knows which is "
            "whose; use an adaptation in which all images count the same, such as adabn"
        )
    total = float(weights.sum())
    # A part of the images may have no weight.
    shares = moved(weights / (total or 1.0), x.device).to(x.dtype)
    positions = x.flatten(2) if x.dim() > 2 else x[..., None]
    mean = shares @ positions.mean(2)
    variance = shares @ (positions - mean[:, None]).square_().mean(2)
    return _Moments(numbers, numbers // len(x) * total, mean, variance)


def _pooled(parts: Sequence[_Moments]) -> _Moments:
    """The moments of all numbers together: each part's about its own mean, then combined, in float64."""
    total = sum(part.weight for part in parts)
    wide = [(part.weight / total, _wide(part.mean), _wide(part.variance)) for part in parts]
    mean = torch.stack([m * share for share, m, _ in wide]).sum(0)
    variance = torch.stack([(v + (m - mean).square()) * share for share, m, v in wide]).sum(0)
    return _Moments(sum(part.numbers for part in parts), total, mean, variance)


def _wide(x: Tensor) -> Tensor:
    """The tensor in float64, without which the parts' own rounding would remain; mps has none."""
    return x if x.device.type == "mps" else x.double()


def _pool(uses: Sequence[_Use], write: _Writer) -> set[_BatchNorm]:
    """Give every layer the pooled moments of its uses; the layers."""
    of_layer: dict[int, list[_Use]] = {}
    for use in uses:
        # Two layers may share their statistics.
        of_layer.setdefault(id(use.layer.running_mean), []).append(use)
    for of_one in of_layer.values():
        write(of_one[0].layer, _pooled([use.moments for use in of_one]))
    return {use.layer for use in uses}


def _set(net: nn.Module, use: _Use, task: Task, write: _Writer) -> None:
    """Give a layer the moments by which it is about to normalise."""
    # A mixture has a variance.
    if use.moments.numbers == 1 and not write.kept:
        name = next(name for name, module in net.named_modules() if module is use.layer)
        raise InputError(
            f"batch-norm statistics of task {task.name} are not defined: layer {name} gets a single number for each "
            "channel, and one number has no variance; give at least two images, or use no adaptation"
        )
    write(use.layer, use.moments)


def _statistics_of(net: nn.Module, layers: set[_BatchNorm]) -> State:
    return {
        f"{prefix}.{name}" if prefix else name: buffer
        for prefix, module in net.named_modules()
        if module in layers
        for name, buffer in module.named_buffers(recurse=False)
    }
