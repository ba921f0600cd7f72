"""Named tensors of a network, and the little algebra that importances need."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Params = dict[str, Tensor]
"""theta or Omega over the shared body; `Omega[name].shape == theta[name].shape`."""

State = dict[str, Tensor]
"""A full state dictionary: body, buffers and head."""


@dataclass(frozen=True)
class Layout:
    """Where a network holds its tensors, kept as long as it holds the same ones in the same places.

    Walking a small network by names takes longer than a pass through it. Of the network itself nothing is referred to,
    or it would never be freed: `prefixes` and `weights` belong to the modules in the order of `modules_of`.

    `body`: as `body_names` says. `slots`: each weight and buffer as the dictionary that holds it, its name there, and
    its name in a state dictionary, which for a tied tensor is that of its first use. `weights`: of the body's weights
    those that each module holds itself, by their names there.
    """

    key: list[Any]
    body: dict[str, str]
    prefixes: list[str]
    slots: list[tuple[dict[str, Any], str, str]]
    weights: list[dict[str, str]]


_layouts: WeakKeyDictionary[nn.Module, Layout] = WeakKeyDictionary()


def modules_of(net: nn.Module) -> list[nn.Module]:
    """Those of `net.modules()`, in their order."""
    found: dict[nn.Module, None] = {}
    stack: list[nn.Module | None] = [net]
    while stack:
        module = stack.pop()
        if module is not None and module not in found:
            found[module] = None
            stack.extend(reversed(module._modules.values()))
    return list(found)


def layout(net: nn.Module, modules: list[nn.Module]) -> Layout:
    """The layout of `net`, whose modules are given."""
    head = getattr(net, "head", None)
    key: list[Any] = [id(head)]
    for module in modules:
        key.append(type(module))
        for held in (module._parameters, module._buffers):
            # The identity of a dictionary that a layout holds is not given to another one.
            key += (id(held), *held, *map(id, held.values()))
    known = _layouts.get(net)
    if known is None or known.key != key:
        known = _layouts[net] = _layout(net, head, key)
    return known


def _layout(net: nn.Module, head: object, key: list[Any]) -> Layout:
    skip = {id(p) for p in head.parameters()} if isinstance(head, nn.Module) else set()
    first: dict[int, str] = {}
    body = {
        name: first.setdefault(id(p), name)
        for name, p in net.named_parameters(remove_duplicate=False)
        if id(p) not in skip
    }
    found = Layout(key, body, [], [], [])
    for prefix, module in net.named_modules():
        full = {own: f"{prefix}.{own}" if prefix else own for own in (*module._parameters, *module._buffers)}
        found.prefixes.append(prefix)
        found.weights.append({own: body[full[own]] for own in module._parameters if full[own] in body})
        for held in (module._parameters, module._buffers):
            for own, tensor in held.items():
                if tensor is not None:
                    found.slots.append((held, own, first.setdefault(id(tensor), full[own])))
    return found


def body_names(net: nn.Module) -> dict[str, str]:
    """Names of the shared body's parameters, each with the name under which `named_parameters` lists it.

    The body is everything but `net.head`; a network without that attribute is all body. The two names differ for a
    weight that is tied, which a state dictionary holds once per use.
    """
    return layout(net, modules_of(net)).body


def clone(state: State) -> State:
    """A copy that shares nothing with `state`."""
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def add(a: Params, b: Params) -> Params:
    """Entry by entry `a + b`, for two `Params` with the same names."""
    return {name: a[name] + b[name] for name in a}


def pearson(a: Params, b: Params) -> float:
    """Pearson correlation over all entries of two `Params` with the same names, in float64; in `[-1, 1]`."""
    x, y = (torch.cat([params[name].flatten() for name in a]).double() for params in (a, b))
    return float(torch.corrcoef(torch.stack([x, y]))[0, 1])


def batch_norms(net: nn.Module) -> list[_BatchNorm]:
    """The batch-norm layers that keep running statistics."""
    return [m for m in net.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


def batch_norm_affine(net: nn.Module) -> dict[str, nn.Parameter]:
    """gamma and beta of `batch_norms(net)`, under their names in the state dictionary; a layer may have none."""
    layers = set(batch_norms(net))
    return {
        f"{prefix}.{name}" if prefix else name: parameter
        for prefix, module in net.named_modules()
        if module in layers
        for name, parameter in module.named_parameters(recurse=False)
    }


def reset_batch_norms(net: nn.Module) -> None:
    """gamma 1, beta 0, running mean 0 and variance 1, in place."""
    for layer in batch_norms(net):
        layer.reset_parameters()


@contextmanager
def eval_mode(net: nn.Module) -> Iterator[None]:
    """Evaluation mode, each module's own mode restored afterwards; gradients are recorded as before."""
    training = [module for module in modules_of(net) if module.training]
    if training:
        net.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def task_logits(net: nn.Module, state: State, x: Tensor, classes: slice) -> Tensor:
    """`(n, classes of the task)` logits of `net` with the weights and buffers of `state`; `net` is left as it is."""
    with _holding(net, state):
        logits: Tensor = net(x)
    return logits[:, classes]


@contextmanager
def _holding(net: nn.Module, state: State) -> Iterator[None]:
    """`net` with the tensors of `state` in place of its own, as by `torch.func.functional_call`, which takes longer
    than a small network's pass. All uses of a tied weight get what `state` has under the first one's name."""
    slots = layout(net, modules_of(net)).slots
    own = [held[name] for held, name, _ in slots]
    try:
        for held, name, full in slots:
            if full in state:
                held[name] = state[full]
        yield
    finally:
        for (held, name, _), tensor in zip(slots, own, strict=True):
            held[name] = tensor
