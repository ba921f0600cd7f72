"""Weights that are used by functions instead of layers with a rule: tokens, embeddings, gains, and computed weights."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from dua_lightning.params import Params, State

BROADCAST = {getattr(kind, name) for kind in (torch, Tensor) for name in ("add", "sub", "mul", "div")} | {
    getattr(Tensor, f"{name}_") for name in ("add", "sub", "mul", "div")
}
"""Functions that broadcast a weight over the samples of their other argument."""
SPREAD = {Tensor.expand, Tensor.repeat}
"""Functions that make a weight `(1, ...)` one for each sample."""
CONVOLUTIONS = {functional.conv1d: nn.Conv1d, functional.conv2d: nn.Conv2d, functional.conv3d: nn.Conv3d}
"""The layer that each function of convolution stands for."""

Seen = Callable[[nn.Module, dict[str, str], State, Tensor, Tensor], Tensor]
"""A function that is shown a layer, the names of its weights by its own, its buffers, its input and its output.

It gives the output back.
"""


class FreeWeights(TorchFunctionMode):
    """Inside it, the gradient of each sample can be had for weights that are used by functions instead of layers.

    A weight of `linear`, `conv2d`, `layer_norm` and the like is shown as the layer that these functions stand for. A
    weight that broadcasts over the first dimension of something with one entry for each sample, or with equally many
    for each, or that is `(1, ...)` and expanded or repeated along it, is replaced by a copy for each sample, so that
    autograd computes their gradients.

    What is computed of weights and buffers alone, as by weight normalisation or the lookup of position biases, is a
    weight as well: each sample's gradient for it goes on to the weights that it was computed of, by `through`.

    Args:
        weights: The weights by name, as the forward pass will meet them.
        others: The buffers.
        samples: The number of samples.
        seen: It is shown the layers.

    Attributes:
        copies: The copies `(n, *shape)` of the weights that were replaced, by name.
        idle: Whether a layer with a rule computes, whose own functions are no concern.

    Raises:
        NotImplementedError: Within the block, for any other use of such a weight.
    """

    def __init__(self, weights: Params, others: Iterable[Tensor], samples: int, seen: Seen) -> None:
        super().__init__()
        self.samples = samples
        self.seen = seen
        self.names = {id(tensor): name for name, tensor in weights.items()}
        # Those made within the block are held, so that no other tensor gets their identity.
        self.constants = {id(tensor): tensor for tensor in others}
        self.leaves: Params = {}
        self.computed: Params = {}
        self.sources: dict[str, set[str]] = {}
        self.copies: Params = {}
        self.idle = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        given = [] if self.idle else list(_tensors((*args, *kwargs.values())))
        if not given:
            return func(*args, **kwargs)
        names = {self.names[id(tensor)] for tensor in given if id(tensor) in self.names}
        if func in SPREAD and names and self._is_for_each_sample(*args):
            copies = self._copies(args[0]).squeeze(1)
            sizes = args[1:] if isinstance(args[1], int) else args[1]
            return func(copies, -1 if func is Tensor.expand else 1, *sizes[1:])
        if all(self.is_constant(tensor) for tensor in given):
            return self._compute(names, func, args, kwargs)
        if not names:
            return func(*args, **kwargs)
        shown: dict[Any, Callable[..., Tensor]] = {
            functional.linear: self._linear,
            functional.layer_norm: self._layer_norm,
            functional.group_norm: self._group_norm,
            functional.batch_norm: self._batch_norm,
        }
        if func in CONVOLUTIONS:
            return self._convolution(func, *args, **kwargs)
        if func in shown:
            return shown[func](*args, **kwargs)
        args, kwargs = self._replaced(func, args, kwargs)
        return func(*args, **kwargs)

    def is_constant(self, tensor: Tensor) -> bool:
        """Tell whether a tensor is a weight, a buffer, or computed of these alone.

        Args:
            tensor: The tensor.

        Returns:
            Whether it is.
        """
        return id(tensor) in self.names or id(tensor) in self.constants

    def weights_of(self, name: str) -> set[str]:
        """Name the weights that a weight was computed of.

        Args:
            name: The name of a weight, or of what was computed of weights.

        Returns:
            The names; of a weight that was not computed, its own.
        """
        return self.sources.get(name, {name})

    def through(self, gradients: Params) -> Params:
        """Carry one sample's gradients on from what was computed to the weights that it was computed of.

        Args:
            gradients: The gradients by name.

        Returns:
            The gradients of weights alone, which are sums over all ways to them.
        """
        plain = {name: g for name, g in gradients.items() if name not in self.computed}
        outputs = {name: self.computed[name] for name in gradients if name in self.computed}
        if not outputs:
            return plain
        names = sorted(set().union(*(self.sources[name] for name in outputs)))
        found = torch.autograd.grad(
            list(outputs.values()),
            [self.leaves[name] for name in names],
            [gradients[name].to(output.dtype) for name, output in outputs.items()],
            retain_graph=True,
            allow_unused=True,
        )
        for name, g in zip(names, found, strict=True):
            if g is not None:
                plain[name] = plain[name] + g if name in plain else g
        return plain

    def _compute(self, names: set[str], func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result of a function of constants; it keeps its way back to the weights."""
        result = func(*_mapped(args, self._leaf), **{key: _mapped(value, self._leaf) for key, value in kwargs.items()})
        for tensor in _tensors((result,)):
            if self.is_constant(tensor):
                continue
            if tensor.requires_grad:
                name = f"computed {len(self.computed)}"
                self.names[id(tensor)], self.computed[name] = name, tensor
                self.sources[name] = set().union(*map(self.weights_of, names))
            else:
                self.constants[id(tensor)] = tensor
        return result

    def _leaf(self, tensor: Tensor) -> Tensor:
        """A weight that asks for a gradient, in the place of one; any other tensor as it is."""
        name = self.names.get(id(tensor))
        if name is None or name in self.computed:
            return tensor
        if name not in self.leaves:
            self.leaves[name] = tensor.detach().requires_grad_()
            self.names[id(self.leaves[name])] = name
        return self.leaves[name]

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:  # noqa: A002
        return self._shown(nn.Linear(1, 1, device="meta"), functional.linear, {}, input, weight, bias)

    def _convolution(
        self,
        func: Callable[..., Tensor],
        input: Tensor,  # noqa: A002
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        outputs, inputs, *size = weight.shape
        steps = (stride, padding, dilation, groups)
        kind: Any = CONVOLUTIONS[func]
        layer = kind(inputs * groups, outputs, tuple(size), *steps, device="meta")
        return self._shown(layer, func, {}, input, weight, bias, *steps)

    def _layer_norm(
        self,
        input: Tensor,  # noqa: A002
        normalized_shape: list[int],
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
    ) -> Tensor:
        def norm(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
            return functional.layer_norm(x, normalized_shape, weight, bias, eps)

        return self._shown(nn.LayerNorm(normalized_shape, eps, device="meta"), norm, {}, input, weight, bias)

    def _group_norm(
        self,
        input: Tensor,  # noqa: A002
        num_groups: int,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
    ) -> Tensor:
        def norm(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
            return functional.group_norm(x, num_groups, weight, bias, eps)

        return self._shown(nn.GroupNorm(num_groups, input.shape[1], eps, device="meta"), norm, {}, input, weight, bias)

    def _batch_norm(
        self,
        input: Tensor,  # noqa: A002
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if training or running_mean is None or running_var is None:
            raise NotImplementedError("batch_norm by the batch's own statistics has no rule")

        def norm(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
            return functional.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)

        layer = nn.BatchNorm2d(input.shape[1], eps, device="meta")
        buffers = {"running_mean": running_mean, "running_var": running_var}
        return self._shown(layer, norm, buffers, input, weight, bias)

    def _shown(
        self,
        layer: nn.Module,
        func: Callable[..., Tensor],
        buffers: State,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        *rest: Any,
    ) -> Tensor:
        given = {"weight": weight, "bias": bias}
        names = {own: self.names[id(tensor)] for own, tensor in given.items() if id(tensor) in self.names}
        if id(x) in self.names:
            raise NotImplementedError(f"a weight is the input of a {type(layer).__name__}, which has no rule")
        # Gradients of weights are the rule's.
        frozen = [None if tensor is None else tensor.detach() for tensor in (weight, bias)]
        return self.seen(layer, names, buffers, x, func(x, *frozen, *rest))

    def _is_for_each_sample(self, weight: Tensor, *sizes: Any) -> bool:
        """Whether the first dimension of a weight, which is 1, becomes that of the samples."""
        wanted = sizes if isinstance(sizes[0], int) else tuple(sizes[0])
        return weight.shape[:1] == (1,) and len(wanted) == weight.dim() and wanted[0] == self.samples

    def _replaced(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments, with the copies in the place of the weight."""
        if func in BROADCAST and len(args) > 1:
            for place, other in ((0, args[1]), (1, args[0])):
                if (copies := self._over_samples(args[place], other)) is not None:
                    return (*args[:place], copies, *args[place + 1 :]), kwargs
        plain = func is functional.scaled_dot_product_attention and not any(id(tensor) in self.names for tensor in args)
        if plain and (copies := self._over_samples(kwargs.get("attn_mask"), args[0])) is not None:
            return args, {**kwargs, "attn_mask": copies}
        raise NotImplementedError(f"{func.__name__} uses a weight that belongs to no layer in a way that has no rule")

    def _over_samples(self, weight: Any, other: Any) -> Tensor | None:
        """The copies of a weight, as they broadcast over another tensor; `None` where it is none, or does not."""
        if id(weight) not in self.names or id(other) in self.names or not isinstance(other, Tensor):
            return None
        shape = weight.shape if other.dim() > weight.dim() else weight.shape[1:]
        each, rest = divmod(len(other), self.samples) if other.dim() else (0, 0)
        if not each or rest or other.dim() < weight.dim() or (len(shape) < weight.dim() and len(weight) != 1):
            return None
        copies = self._copies(weight).view(-1, *[1] * (other.dim() - 1 - len(shape)), *shape)
        # Several entries of one sample follow each other; the engine's comparison shows where they do not.
        return copies if each == 1 else copies.repeat_interleave(each, 0)

    def _copies(self, weight: Tensor) -> Tensor:
        name = self.names[id(weight)]
        if name not in self.copies:
            self.copies[name] = weight.detach().expand(self.samples, *weight.shape).requires_grad_()
        return self.copies[name]


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among values and within lists and tuples among them."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _mapped(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """The same values, with what a function makes of the tensors among them."""
    if isinstance(value, Tensor):
        return function(value)
    if type(value) in (list, tuple):
        return type(value)(_mapped(item, function) for item in value)
    return value
