"""Weights of modules without a rule of their own: tokens, embeddings, gains, and layers that call torch's functions."""

from collections.abc import Callable
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
ASKED = {"__get__", "dim", "size", "numel", "is_floating_point"}
"""Names of functions that only ask for a weight's properties."""

Seen = Callable[[nn.Module, dict[str, str], State, Tensor, Tensor], Tensor]
"""A function that is shown a layer, the full names of its weights by its own, its buffers, its input and its output.

It gives the output back.
"""


class FreeWeights(TorchFunctionMode):
    """Inside it, the gradient of each sample can be had for weights that are used by functions instead of layers.

    A weight of `linear`, `layer_norm` or `batch_norm` is shown as the layer that these functions stand for. A weight
    that broadcasts over the first dimension of something with one entry for each sample, or that is `(1, ...)` and
    expanded or repeated along it, is replaced by a copy for each sample, so that autograd computes their gradients.

    Args:
        weights: The weights by name, as the forward pass will meet them.
        samples: The number of samples.
        seen: It is shown the layers.

    Attributes:
        copies: The copies `(n, *shape)` of the weights that were replaced, by name.

    Raises:
        NotImplementedError: Within the block, for any other use of such a weight.
    """

    def __init__(self, weights: Params, samples: int, seen: Seen) -> None:
        super().__init__()
        self.samples = samples
        self.seen = seen
        self.names = {id(tensor): name for name, tensor in weights.items()}
        self.copies: Params = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.__name__ in ASKED or not any(id(a) in self.names for a in (*args, *kwargs.values())):
            return func(*args, **kwargs)
        shown: dict[Any, Callable[..., Tensor]] = {
            functional.linear: self._linear,
            functional.layer_norm: self._layer_norm,
            functional.batch_norm: self._batch_norm,
        }
        if func in shown:
            if "input" in kwargs:
                args = (kwargs.pop("input"), *args)
            return shown[func](*args, **kwargs)
        return func(*self._replaced(func, args), **kwargs)

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        layer = nn.Linear(1, 1, device="meta")
        return self._shown(layer, weight, bias, {}, x, functional.linear(x, weight, bias))

    def _layer_norm(
        self,
        x: Tensor,
        normalized_shape: list[int],
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
    ) -> Tensor:
        layer = nn.LayerNorm(normalized_shape, eps, device="meta")
        y = functional.layer_norm(x, normalized_shape, weight, bias, eps)
        return self._shown(layer, weight, bias, {}, x, y)

    def _batch_norm(
        self,
        x: Tensor,
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
        layer = nn.BatchNorm2d(x.shape[1], eps, device="meta")
        y = functional.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
        buffers = {"running_mean": running_mean, "running_var": running_var}
        return self._shown(layer, weight, bias, buffers, x, y)

    def _shown(
        self, layer: nn.Module, weight: Tensor | None, bias: Tensor | None, buffers: State, x: Tensor, y: Tensor
    ) -> Tensor:
        given = {"weight": weight, "bias": bias}
        names = {own: self.names[id(tensor)] for own, tensor in given.items() if id(tensor) in self.names}
        return self.seen(layer, names, buffers, x, y)

    def _replaced(self, func: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments, with the copies in the place of the weight."""
        places = [i for i, a in enumerate(args[:2]) if id(a) in self.names]
        if len(places) == 1:
            place = places[0]
            other, shape = args[1 - place] if len(args) > 1 else None, args[place].shape
            if func in SPREAD and place == 0 and shape[:1] == (1,):
                sizes = args[1:] if isinstance(other, int) else tuple(args[1])
                if len(sizes) == len(shape) and sizes[0] == self.samples:
                    copies = self._copies(args[0]).squeeze(1)
                    return (copies, -1 if func is Tensor.expand else 1, *sizes[1:])
            if func in BROADCAST and isinstance(other, Tensor) and other.dim() and len(other) == self.samples:
                if other.dim() == len(shape) and shape[0] == 1:
                    return (*args[:place], self._copies(args[place]).squeeze(1), *args[place + 1 :])
                if other.dim() > len(shape):
                    ones = [1] * (other.dim() - 1 - len(shape))
                    return (*args[:place], self._copies(args[place]).view(-1, *ones, *shape), *args[place + 1 :])
        raise NotImplementedError(f"{func.__name__} uses a weight that belongs to no layer in a way that has no rule")

    def _copies(self, weight: Tensor) -> Tensor:
        name = self.names[id(weight)]
        if name not in self.copies:
            self.copies[name] = weight.detach().expand(self.samples, *weight.shape).requires_grad_()
        return self.copies[name]
