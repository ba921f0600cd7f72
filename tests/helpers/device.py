"""A device that every machine has: it computes what the processor does, and its tensors mix with no others.

`torch.device("meta")` stands for it. Inside `Elsewhere()` tensors that are made on it or moved to it are `Away`: they
hold a tensor of the processor, say that they are elsewhere, and refuse, as those of a CUDA device do, operations with
tensors of the processor that have a dimension.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

from dua_lightning.params import State

ELSEWHERE = torch.device("meta")
MOVES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
"""Functions that take tensors of two devices."""


class Away(Tensor):
    """A tensor elsewhere, which holds its values on the processor."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "Away":
        self: Away = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            held.stride(),
            held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=ELSEWHERE,
            requires_grad=held.requires_grad,
        )
        self.held = held
        return self

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def __repr__(self) -> str:
        return f"Away({self.held})"

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatched(func, args, kwargs or {})


class Elsewhere(TorchDispatchMode):
    """Inside it there is the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatched(func, args, kwargs or {})


def dispatched(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    away = [tensor for tensor in tensors if isinstance(tensor, Away)]
    asked = kwargs.get("device")
    to_away = bool(away) if asked is None else torch.device(asked) == ELSEWHERE
    if func is torch.ops.aten.copy_.default:
        to_away = isinstance(args[0], Away)
    if away and func not in MOVES:
        strangers = [tensor for tensor in tensors if not isinstance(tensor, Away) and tensor.dim()]
        if strangers:
            raise RuntimeError(
                f"{func} got tensors on two devices, one of shape {tuple(strangers[0].shape)} on the CPU"
            )
    if asked is not None and to_away:
        kwargs = kwargs | {"device": torch.device("cpu")}
    here_args, here_kwargs = tree_map(here, (args, kwargs))
    found = func(*here_args, **here_kwargs)
    if not to_away:
        return found
    wrapped = tree_map(lambda leaf: Away(leaf) if type(leaf) is Tensor else leaf, found)
    return return_and_correct_aliasing(func, args, kwargs, wrapped) if away else wrapped


def here(value: Any) -> Any:
    """On the processor, what may be elsewhere."""
    return value.held if isinstance(value, Away) else value


def sent(state: State) -> State:
    """The state elsewhere; a copy, so that nothing is written to the original."""
    return {name: Away(tensor.detach().clone()) for name, tensor in state.items()}


def returned(state: State) -> State:
    """The state back on the processor; every tensor has to be elsewhere."""
    assert all(isinstance(tensor, Away) for tensor in state.values()), [
        n for n, t in state.items() if type(t) is Tensor
    ]
    return {name: here(tensor) for name, tensor in state.items()}
