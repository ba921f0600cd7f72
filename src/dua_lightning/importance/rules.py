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
COMPILED_FROM = 1 << 27
"""Multiplications of a layer's gradients from which they go through the compiled loop."""
LARGEST_MAP = 100
"""Output positions up to which that loop is faster than the library's gradient of one sample; measured."""
LONGEST = 32
"""Positions up to which that loop is faster than a product of matrices for each sample of a linear layer; measured.

For 4 positions, 768 inputs and 3072 outputs it takes 0.4 of the time, for 17 positions 0.8, for 64 as much.
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
        if a.dim() > 2:
            a, d = _rows(a), _rows(d)
            if "bias" in totals:
                add_powers_(totals["bias"], d.sum(1, dtype=totals["bias"].dtype), power)
            if "weight" not in totals:
                return
            total, positions = totals["weight"], d.shape[1]
            if positions <= LONGEST and _compiles(total, len(d) * positions):
                # It is not loaded for those who measure small networks only.
                from dua_lightning.kernels.convolution import add_ as add_compiled_

                a, d = a.to(total.dtype).contiguous(), d.to(total.dtype)
                inputs, rows = torch.arange(a.shape[2]), torch.arange(positions) * a.shape[2]
                add_compiled_(total, a.flatten(1), inputs, rows, d.mT, power)
                return
            size = max(1, BLOCK_BYTES // total.nbytes)
            for a_i, d_i in zip(a.split(size), d.split(size), strict=True):
                add_powers_(total, d_i.mT @ a_i.to(d.dtype), power)
            return
        outputs = _power(d.to(next(iter(totals.values())).dtype), power)
        if "bias" in totals:
            totals["bias"] += outputs.sum(0)
        if "weight" in totals:
            weight = totals["weight"]
            size = _block(a, INPUT_BYTES)
            scratch = _scratch(weight, size, a.shape[1])
            for a_i, d_i in zip(a.split(size), outputs.split(size), strict=True):
                inputs = scratch[: len(a_i)]
                a_i = a_i.to(weight.dtype)
                torch.abs(a_i, out=inputs) if power == 1 else torch.square(a_i, out=inputs)
                weight.addmm_(d_i.mT, inputs)


class ConvRule(Rule):
    """The rule of convolutions: the gradients of a few samples are added to the total while they are in the cache.

    The library's own weight gradients are slow where the output has few positions. There, and on a processor, a
    compiled loop adds each sample's while it is in the registers.
    """

    def gradients(self, layer: nn.Module, buffers: State, a: Tensor, d: Tensor) -> Params:
        assert isinstance(layer, _ConvNd)
        return {"weight": _weight_gradients(layer, a, d), "bias": d.flatten(2).sum(2)}

    def add_(self, totals: Params, layer: nn.Module, buffers: State, a: Tensor, d: Tensor, power: Power) -> None:
        assert isinstance(layer, _ConvNd)
        if "bias" in totals:
            totals["bias"] += _power(d.flatten(2).sum(2, dtype=totals["bias"].dtype), power).sum(0)
        if "weight" not in totals:
            return
        total = totals["weight"]
        positions = d[0, 0].numel()
        if layer.groups == 1 and positions <= LARGEST_MAP and _compiles(total, len(d) * positions):
            _add_compiled_(total, layer, a.to(total.dtype), d.to(total.dtype), power)
            return
        size = max(1, BLOCK_BYTES // total.nbytes)
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


def _block(a: Tensor, size: int = BLOCK_BYTES) -> int:
    """Samples in each of equal blocks of about `size` bytes of inputs; those of the default fit the cache."""
    blocks = max(1, -(-a.nbytes // size))
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


def _add_compiled_(total: Tensor, layer: _ConvNd, a: Tensor, d: Tensor, power: Power) -> None:
    # It is not loaded for those who measure small networks only.
    from dua_lightning.kernels.convolution import add_

    a = _padded(layer, a).contiguous()
    channel, *steps = a[0].stride()
    dilated = [dilation * step for dilation, step in zip(layer.dilation, steps, strict=True)]
    inputs = _grid((layer.in_channels, *layer.kernel_size), (channel, *dilated))
    positions = _grid(d.shape[2:], [stride * step for stride, step in zip(layer.stride, steps, strict=True)])
    add_(total.view(len(total), -1), a.flatten(1), inputs, positions, d.flatten(2), power)


def _grid(sizes: Sequence[int], steps: Sequence[int]) -> Tensor:
    """Tell the places of the entries of a grid, the last dimension running fastest."""
    places = torch.zeros((), dtype=torch.int64)
    for size, step in zip(sizes, steps, strict=True):
        places = places[..., None] + step * torch.arange(size)
    return places.flatten()


def _weight_gradients(layer: _ConvNd, a: Tensor, d: Tensor) -> Tensor:
    """The gradient of each sample, `(n, *shape of the weight)`.

    A kernel of one position is a product of matrices. Otherwise the library's backward pass computes them, with the
    samples as groups of channels of one large sample.
    """
    n, dims, a = len(a), len(layer.stride), a.to(d.dtype)
    padding: tuple[int | str, ...] = (0,) * dims
    if layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
        padding = layer.padding
    else:
        a = _padded(layer, a)
    if layer.groups == 1 and set(layer.kernel_size) == {1} and not any(padding):
        steps: tuple[Any, ...] = tuple(slice(None, None, stride) for stride in layer.stride)
        return torch.bmm(d.flatten(2), a[(..., *steps)].flatten(2).mT).view(n, *layer.weight.shape)
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
