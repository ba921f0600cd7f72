"""The rules by which each kind of layer adds to an importance, from its inputs and the gradients of its outputs.

A rule never holds the gradients of many samples at once: their size is that of the weights, not of the batch. To give
the engine a layer of your own, write a `Rule` and register it: `RULES[MyLayer] = MyRule()`.
"""

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # no public class is common to these layers
from torch.nn.modules.conv import _ConvNd  # no public class is common to these layers
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear  # the last projection of nn.MultiheadAttention

from dua_lightning.params import Params, State

Power = Literal[1, 2]
"""The power of the absolute gradient of each sample: 1 for MAS, 2 for the FIM."""

BLOCK_BYTES = 2 * 2**20
"""The size of a temporary that stays in a core's cache between its making and its use."""
INPUT_BYTES = 4 * 2**20
"""The size of a block of a linear layer's inputs. A matrix product of fewer rows is slower, and reads from memory."""
UNFOLDED_BYTES = 16 * 2**20
"""The size of a block of unfolded inputs: each block reads and writes the layer's total once more."""
ACCELERATOR_BYTES = 256 * 2**20
"""The size of any of these blocks on an accelerator, where the start of an operation costs more than what it reads.

With blocks of a processor's size psi takes 8 to 14 times as long on an H200.
"""
COMPILED_FROM = 1 << 20
"""Multiplications of a layer's gradients from which they go through a compiled loop."""
LARGEST_MAP = 100
"""Positions up to which that loop is faster than the library's products of matrices; measured."""
LARGEST_KERNEL = 9
"""Numbers of a channel's kernel up to which the library's convolution of each channel is faster than a compiled loop.

It is not where the map is smaller than the kernel. With 384 channels of 16 positions the loop takes about 1.7 times as
long for kernels of 9, and a seventh of the time for kernels of 49.
"""
COMPILED_TYPES = (torch.float32, torch.float64)
"""The types of sums that the compiled loop takes."""


def add_power_(total: Tensor, gradient: Tensor, power: Power) -> None:
    """Add one sample's |gradient|^power to a total, in the total's type.

    Args:
        total: The total, of the weight's shape; it is changed.
        gradient: The gradient, of the same shape; it may be overwritten.
        power: 1 for MAS, 2 for the FIM.
    """
    gradient = gradient.to(total.dtype)
    if power == 1:
        total += gradient.abs_()
    else:
        total.addcmul_(gradient, gradient)


def add_powers_(total: Tensor, gradients: Tensor, power: Power) -> None:
    """Add the sum over samples of |gradient|^power to a total, in the total's type.

    Args:
        total: The total, of the weight's shape; it is changed.
        gradients: The gradients `(n, *shape)`; they may be overwritten.
        power: 1 for MAS, 2 for the FIM.
    """
    if len(gradients) == 1:
        add_power_(total, gradients[0], power)
    else:
        total += _power(gradients.to(total.dtype), power).sum(0)


class Rule(ABC):
    """The gradients of the weights of one class of layers, from inputs `a` and output gradients `d`.

    The first dimension of both is the sample. Names of weights are the layer's own, `weight` and `bias`.
    """

    @abstractmethod
    def gradients(self, layer: nn.Module, buffers: State, a: Tensor, d: Tensor) -> Params:
        """Compute the gradient of each sample for each weight.

        Args:
            layer: The layer.
            buffers: Its buffers in the expert's state, by the layer's own names.
            a: Inputs `(n, ...)`.
            d: Gradients of the outputs `(n, ...)`.

        Returns:
            `(n, *shape of the weight)` for each weight.
        """

    def add_(self, totals: Params, layer: nn.Module, buffers: State, a: Tensor, d: Tensor, power: Power) -> None:
        """Add the sum over samples of |gradient|^power to totals.

        Args:
            totals: The sums; weights that are not among them are left out.
            layer: The layer.
            buffers: Its buffers in the expert's state, by the layer's own names.
            a: Inputs `(n, ...)`.
            d: Gradients of the outputs `(n, ...)`.
            power: 1 for MAS, 2 for the FIM.
        """
        for a_i, d_i in zip(a.split(1), d.split(1), strict=True):
            gradients = self.gradients(layer, buffers, a_i, d_i)
            for name, total in totals.items():
                # A rule may give the output's gradient itself, which others need.
                total += _power(gradients[name][0].to(total.dtype), power)


class LinearRule(Rule):
    """The rule of linear layers; on flat inputs `(n, in)` it is sum_i |d_i a_i^T| = |D|^T |A|, and so with squares."""

    def gradients(self, layer: nn.Module, buffers: State, a: Tensor, d: Tensor) -> Params:
        a, d = _rows(a).to(d.dtype), _rows(d)
        return {"weight": d.mT @ a, "bias": d.sum(1)}

    def add_(self, totals: Params, layer: nn.Module, buffers: State, a: Tensor, d: Tensor, power: Power) -> None:
        a, d = _rows(a), _rows(d)
        if "bias" in totals:
            add_powers_(totals["bias"], d.sum(1, dtype=totals["bias"].dtype), power)
        if "weight" in totals:
            _add_products_(totals["weight"], a, d, power)


class ConvRule(Rule):
    """The rule of convolutions: the gradients of a few samples are added to the total while they are in the cache.

    The library's own weight gradients are slow where the output has few positions, and for large kernels of single
    channels. There, on a processor, compiled loops add each sample's while it is in the registers. On an accelerator
    they are slow for every convolution of all channels, which is a product of matrices there.
    """

    def gradients(self, layer: nn.Module, buffers: State, a: Tensor, d: Tensor) -> Params:
        assert isinstance(layer, _ConvNd)
        return {"weight": _weight_gradients(layer, a, d), "bias": d.flatten(2).sum(2)}

    def add_(self, totals: Params, layer: nn.Module, buffers: State, a: Tensor, d: Tensor, power: Power) -> None:
        assert isinstance(layer, _ConvNd)
        if "bias" in totals:
            add_powers_(totals["bias"], d.flatten(2).sum(2, dtype=totals["bias"].dtype), power)
        if "weight" not in totals:
            return
        total = totals["weight"]
        positions, taps = d[0, 0].numel(), math.prod(layer.kernel_size)
        compiles = _compiles(total, len(d) * positions)
        multiplies = taps == 1 or positions == 1 or not total.is_cpu or (positions <= LARGEST_MAP and compiles)
        if layer.groups == 1 and multiplies:
            # Inputs are unfolded with their channels last, which copies runs of numbers.
            sums = total.flatten(2).mT if taps == 1 else total.new_zeros(*total.shape[:1], taps, a.shape[1])
            size = _samples(total, UNFOLDED_BYTES, total[0].nbytes * positions)
            for a_i, d_i in zip(a.split(size), d.split(size), strict=True):
                _add_products_(sums.flatten(1), _unfolded(layer, a_i), d_i.flatten(2).mT, power)
            if taps > 1:
                total.flatten(2).add_(sums.mT)
        elif layer.groups == len(total) == a.shape[1] and (taps > LARGEST_KERNEL or positions < taps) and compiles:
            _add_depthwise_(total, layer, a.to(total.dtype), d.to(total.dtype), power)
        else:
            size = _samples(total, BLOCK_BYTES, total.nbytes)
            for a_i, d_i in zip(a.split(size), d.split(size), strict=True):
                add_powers_(total, _weight_gradients(layer, a_i, d_i), power)


class NormRule(Rule):
    """The rule of layers whose gradients are smaller than their inputs: those of a block of samples at once."""

    def add_(self, totals: Params, layer: nn.Module, buffers: State, a: Tensor, d: Tensor, power: Power) -> None:
        size = _block(a)
        for a_i, d_i in zip(a.split(size), d.split(size), strict=True):
            gradients = self.gradients(layer, buffers, a_i, d_i)
            for name, total in totals.items():
                total += _power(gradients[name].to(total.dtype), power).sum(0)


class BatchNormRule(NormRule):
    """The rule of batch normalisation in evaluation mode, where the layer is an affine map of each sample."""

    def gradients(self, layer: nn.Module, buffers: State, a: Tensor, d: Tensor) -> Params:
        assert isinstance(layer, _BatchNorm)
        centred = a - buffers["running_mean"].view(-1, *[1] * (a.dim() - 2))
        gamma = _over_positions(centred.mul_(d)) * (buffers["running_var"] + layer.eps).rsqrt()
        return {"weight": gamma, "bias": _over_positions(d.to(gamma.dtype))}


class LayerNormRule(NormRule):
    """The rule of layer normalisation: the weights have the shape of what is normalised, after the positions."""

    def gradients(self, layer: nn.Module, buffers: State, a: Tensor, d: Tensor) -> Params:
        assert isinstance(layer, nn.LayerNorm)
        normalised = nn.functional.layer_norm(a, layer.normalized_shape, eps=layer.eps)
        positions = tuple(range(1, a.dim() - len(layer.normalized_shape)))
        return {name: g.sum(positions) if positions else g for name, g in (("weight", normalised.mul_(d)), ("bias", d))}


class GroupNormRule(NormRule):
    """The rule of group normalisation."""

    def gradients(self, layer: nn.Module, buffers: State, a: Tensor, d: Tensor) -> Params:
        assert isinstance(layer, nn.GroupNorm)
        normalised = nn.functional.group_norm(a, layer.num_groups, eps=layer.eps)
        return {"weight": _over_positions(normalised.mul_(d)), "bias": _over_positions(d)}


RULES: dict[type[nn.Module], Rule] = {
    nn.Linear: LinearRule(),
    NonDynamicallyQuantizableLinear: LinearRule(),
    nn.Conv1d: ConvRule(),
    nn.Conv2d: ConvRule(),
    nn.Conv3d: ConvRule(),
    nn.BatchNorm1d: BatchNormRule(),
    nn.BatchNorm2d: BatchNormRule(),
    nn.BatchNorm3d: BatchNormRule(),
    nn.LayerNorm: LayerNormRule(),
    nn.GroupNorm: GroupNormRule(),
}
"""The rule of each exact class; a subclass may compute something else."""


def _power(x: Tensor, power: Power) -> Tensor:
    return x.abs() if power == 1 else x.square()


def _rows(x: Tensor) -> Tensor:
    """`(n, positions, features)` of `(n, ..., features)`."""
    return x.reshape(len(x), -1, x.shape[-1])


def _over_positions(x: Tensor) -> Tensor:
    return x.flatten(2).sum(2) if x.dim() > 2 else x


def _samples(total: Tensor, size: int, each: int) -> int:
    """Samples of `each` bytes in a block of `size` bytes on a processor, and in a larger one elsewhere."""
    return max(1, (size if total.is_cpu else ACCELERATOR_BYTES) // each)


def _block(a: Tensor, size: int = BLOCK_BYTES) -> int:
    """Samples in each of equal blocks of about `size` bytes of inputs; those of the default fit the cache."""
    blocks = max(1, -(-a.nbytes // (size if a.is_cpu else ACCELERATOR_BYTES)))
    return max(1, -(-len(a) // blocks))


_memory = threading.local()


def _scratch(like: Tensor, *shape: int) -> Tensor:
    """Memory for a block, of the type of `like`; the calling thread's own, in use until it asks again.

    Fresh memory costs more than what is done in it.
    """
    size = math.prod(shape) * like.element_size()
    if not like.is_cpu or size > INPUT_BYTES:
        return like.new_empty(shape)
    if not hasattr(_memory, "bytes"):
        _memory.bytes = torch.empty(INPUT_BYTES, dtype=torch.uint8)
    found: Tensor = _memory.bytes[:size].view(like.dtype).view(shape)
    return found


def _compiles(total: Tensor, positions: int) -> bool:
    """Whether the compiled loop can take these sums, of so many positions of all samples, and is worth its loading."""
    return total.is_cpu and total.dtype in COMPILED_TYPES and total.numel() * positions >= COMPILED_FROM


def _add_products_(total: Tensor, a: Tensor, d: Tensor, power: Power) -> None:
    """The gradients `d_i^T a_i` of inputs `(n, positions, inputs)` and output gradients `(n, positions, outputs)`."""
    if d.shape[1] == 1:
        _add_outer_products_(total, a[:, 0], d[:, 0], power)
    elif d.shape[1] <= LARGEST_MAP and _compiles(total, len(d) * d.shape[1]):
        # It is not loaded for those who measure small networks only.
        from dua_lightning.kernels.gradients import add_products_

        add_products_(total, a.to(total.dtype), d.to(total.dtype), power)
    else:
        size = _samples(total, BLOCK_BYTES, total.nbytes)
        for a_i, d_i in zip(a.split(size), d.split(size), strict=True):
            add_powers_(total, d_i.mT @ a_i.to(d.dtype), power)


def _add_outer_products_(total: Tensor, a: Tensor, d: Tensor, power: Power) -> None:
    """The same for one position: a gradient of rank one has the absolute value of its factors."""
    outputs = _power(d.to(total.dtype), power)
    size = _block(a, INPUT_BYTES)
    scratch = _scratch(total, size, a.shape[1])
    for a_i, d_i in zip(a.split(size), outputs.split(size), strict=True):
        inputs = scratch[: len(a_i)]
        a_i = a_i.to(total.dtype)
        torch.abs(a_i, out=inputs) if power == 1 else torch.square(a_i, out=inputs)
        total.addmm_(d_i.mT, inputs)


def _add_depthwise_(total: Tensor, layer: _ConvNd, a: Tensor, d: Tensor, power: Power) -> None:
    """A convolution of each channel by a kernel of its own."""
    # It is not loaded for those who measure small networks only.
    from dua_lightning.kernels.gradients import add_depthwise_

    a = _padded(layer, _channels_last(a))
    steps = [math.prod(a.shape[dim:]) for dim in range(3, a.dim() + 1)]
    taps = _grid(layer.kernel_size, [dilation * step for dilation, step in zip(layer.dilation, steps, strict=True)])
    positions = _grid(d.shape[2:], [stride * step for stride, step in zip(layer.stride, steps, strict=True)])
    add_depthwise_(total.flatten(1), a.flatten(2), taps, positions, d.flatten(2), power)


def _unfolded(layer: _ConvNd, a: Tensor) -> Tensor:
    """The inputs that the kernel sees at each position, `(n, positions, kernel x channels)`."""
    a = _padded(layer, a if set(layer.kernel_size) == {1} else _channels_last(a)).movedim(1, -1)
    for dim, (size, stride, dilation) in enumerate(zip(layer.kernel_size, layer.stride, layer.dilation, strict=True)):
        a = a.unfold(1 + dim, dilation * (size - 1) + 1, stride)[..., ::dilation]
    return a.movedim(1 + len(layer.stride), -1).reshape(len(a), -1, layer.weight[0].numel())


def _channels_last(a: Tensor) -> Tensor:
    """The same numbers in another order in memory, which padding keeps."""
    return a.movedim(1, -1).contiguous().movedim(-1, 1)


def _grid(sizes: Sequence[int], steps: Sequence[int]) -> Tensor:
    """Tell the places of the entries of a grid, the last dimension running fastest."""
    places = torch.zeros((), dtype=torch.int64)
    for size, step in zip(sizes, steps, strict=True):
        places = places[..., None] + step * torch.arange(size)
    return places.flatten()


def _weight_gradients(layer: _ConvNd, a: Tensor, d: Tensor) -> Tensor:
    """The gradient of each sample, `(n, *shape of the weight)`, of the library.

    Its backward pass computes them, with the samples as groups of channels of one large sample.
    """
    n, dims, a = len(a), len(layer.stride), a.to(d.dtype)
    padding: tuple[int | str, ...] = (0,) * dims
    if layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
        padding = layer.padding
    else:
        a = _padded(layer, a)
    weight = d.new_empty(()).expand(n * len(layer.weight), *layer.weight.shape[1:])
    samples: list[Any] = [d.reshape(1, -1, *d.shape[2:]), a.reshape(1, -1, *a.shape[2:]), weight, None]
    rest: list[Any] = [layer.stride, padding, layer.dilation, False, [0] * dims, n * layer.groups]
    gradients: Tensor = torch.ops.aten.convolution_backward(*samples, *rest, [False, True, False])[1]
    return gradients.view(n, *layer.weight.shape)


def _padded(layer: _ConvNd, a: Tensor) -> Tensor:
    """The input as the layer's kernel sees it."""
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    # Torch itself pads with this; `padding` may be the word "same".
    return nn.functional.pad(a, layer._reversed_padding_repeated_twice, mode=mode)
