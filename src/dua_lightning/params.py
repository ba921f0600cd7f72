"""Named tensors of a network, and the little algebra that importances need."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm  # no public class is common to these layers
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel
from torch.overrides import TorchFunctionMode

from dua_lightning.errors import InputError

Params = dict[str, Tensor]
"""Weights theta or importances Omega of the shared body, by name; `Omega[name].shape == theta[name].shape`."""

State = dict[str, Tensor]
"""A full state dictionary: body, buffers and head."""

NORMS = (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
"""The kinds of normalisation layers; subclasses are among them, such as the layer norms of ConvNeXt."""


def body_names(net: nn.Module) -> dict[str, str]:
    """Name the parameters of the shared body: everything but `net.head`, or all of a network without that attribute.

    Args:
        net: The network.

    Returns:
        Each parameter's name with the name under which `named_parameters` lists it. The two differ for a weight that is
        tied, which a state dictionary holds once per use.

    Raises:
        InputError: The network is wrapped in a module that hides its head.
    """
    _refuse_wrapper(net)
    skip = _head(net)
    first: dict[int, str] = {}
    return {
        name: first.setdefault(id(p), name)
        for name, p in net.named_parameters(remove_duplicate=False)
        if id(p) not in skip
    }


def _head(net: nn.Module) -> set[int]:
    """The identities of the head's parameters; a head may be a single one."""
    head = getattr(net, "head", None)
    return {id(p) for p in head.parameters()} if isinstance(head, nn.Module) else {id(head)}


def _refuse_wrapper(net: nn.Module) -> None:
    if isinstance(net, DataParallel | DistributedDataParallel | AveragedModel):
        kind = type(net).__name__
        raise InputError(f"{kind} hides the head of the network that it wraps; give that network, which is its .module")


def device_of(state: Mapping[str, Tensor]) -> torch.device:
    """Tell on which device the tensors of a state are.

    Args:
        state: Tensors by name, all on one device.

    Returns:
        The device of the first tensor; the processor for a state without any.
    """
    return next((tensor.device for tensor in state.values()), torch.device("cpu"))


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device without waiting for the copy.

    Args:
        tensor: A tensor of any shape.
        device: The device. On `mps`, which has no float64, such a tensor becomes float32.

    Returns:
        The tensor on the device; the very tensor if it is there already.
    """
    if device.type == "mps" and tensor.dtype == torch.float64:
        tensor = tensor.float()
    return tensor.to(device, non_blocking=True)


def inputs(net: nn.Module, x: Tensor, device: torch.device) -> Tensor:
    """Copy the inputs of a network to a device, on a processor in the memory format that the network asks for.

    A network asks by an attribute `memory_format`. With `torch.channels_last` its convolutions took 0.6 to 0.8 of the
    time: MobileNetV2 of 96 pixels 8.9 ms and not 13.8 ms for the forward and backward pass of a picture, 2.2 ms and not
    2.9 ms for the forward pass; a narrow VGG11-BN of 32 pixels 0.44 ms and 0.57 ms, 0.13 ms and 0.21 ms; ResNet18 0.95
    of the time (batches of 20 and 25, one thread).

    Args:
        net: The network.
        x: Inputs `(n, ...)`.
        device: The device.

    Returns:
        The inputs on the device; the very tensor if nothing is to be done.
    """
    x = moved(x, device)
    if device.type == "cpu" and x.dim() == 4:
        return x.to(memory_format=getattr(net, "memory_format", torch.preserve_format))
    return x


def fitted(net: nn.Module, state: Mapping[str, Tensor]) -> State:
    """Give a state as a pass through a network takes it: a tensor for each parameter and each buffer.

    Every state that meets a network comes through here.

    Args:
        net: The network.
        state: A full state dictionary of it. It may lack buffers that the network does not save, and further names of
            a tied weight. Its head may have other columns than the network's.

    Returns:
        The tensors by the names under which the network lists them first. Buffers that are not saved are the network's
        own, on the state's device.

    Raises:
        InputError: The state lacks a weight or has one too many, a shape is another, or a tied weight has several
            values; or the network is wrapped in a module that hides its head.
    """
    _refuse_wrapper(net)
    kind = type(net).__name__
    tensors: State = {}
    own: dict[int, tuple[str, Tensor]] = {}
    known = 0
    for name, tensor in chain(net.named_parameters(remove_duplicate=False), net.named_buffers(remove_duplicate=False)):
        first, _ = own.setdefault(id(tensor), (name, tensor))
        if name not in state:
            continue
        known += 1
        given = state[name]
        if given.shape != tensor.shape and not (id(tensor) in _head(net) and given.dim() == tensor.dim()):
            raise InputError(
                f"the state has {name} {tuple(given.shape)}, and this {kind} {tuple(tensor.shape)}; give a state of "
                "this network"
            )
        if first not in tensors:
            tensors[first] = given
        elif tensors[first] is not given and not torch.equal(tensors[first], given):
            raise InputError(f"the state has other numbers for {name} than for {first}, and this {kind} ties the two")
    if len(tensors) < len(own):
        saved, device = net.state_dict(), device_of(state)
        for name, tensor in own.values():
            if name not in tensors and (name in saved or isinstance(tensor, nn.Parameter)):
                raise InputError(f"the state of this {kind} {lacks(state, name)}")
            tensors.setdefault(name, tensor.to(device))
    if known < len(state):
        # A module may save other things than tensors, under names that no parameter and no buffer has.
        foreign = [name for name in state if name not in tensors and name not in net.state_dict()]
        if foreign:
            raise InputError(f"the state has {foreign[0]}, and this {kind} does not; give a state of this network")
    return tensors


def _held(net: nn.Module) -> Iterator[tuple[str, str]]:
    """Each parameter and buffer of each module, and the name under which the network lists it first."""
    first: dict[int, str] = {}
    for prefix, module in net.named_modules():
        parameters = module.named_parameters(recurse=False, remove_duplicate=False)
        buffers = module.named_buffers(recurse=False, remove_duplicate=False)
        for name, tensor in chain(parameters, buffers):
            full = f"{prefix}.{name}" if prefix else name
            yield full, first.setdefault(id(tensor), full)


def lacks(state: Mapping[str, Tensor], name: str) -> str:
    """Tell that a state lacks a tensor, and how its names would have to change to have it.

    Args:
        state: Tensors by name.
        name: The name that is not among them.

    Returns:
        The end of a sentence about the state.
    """
    longer = next((found for found in state if found.endswith(f".{name}")), None)
    shorter = next((found for found in state if name.endswith(f".{found}")), None)
    if longer is not None:
        return f"lacks {name}: it has {longer}; take {longer.removesuffix(name)} off its names"
    if shorter is not None:
        return f"lacks {name}: it has {shorter}; put {name.removesuffix(shorter)} before its names"
    return f"lacks {name}; give a full state dictionary, with all weights and buffers"


def loaded(net: nn.Module, state: State) -> nn.Module:
    """Make a copy of a network with the tensors of a state, on the state's device.

    Args:
        net: The network; it stays as it is.
        state: The full state dictionary that the copy gets.

    Returns:
        The copy.

    Raises:
        InputError: The state is not one of this network, or the network holds something that cannot be copied.
    """
    tensors = fitted(net, state)
    try:
        with _CopyComputed():
            copied = copy.deepcopy(net).to(device_of(state))
    except Exception as error:
        # A module may hold anything, a lock or an open file for example.
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"this {type(net).__name__} holds something that cannot be copied ({reason})") from error
    for name, p in copied.named_parameters():
        if p.shape != tensors[name].shape:
            p.data = p.new_empty(tensors[name].shape)
    # The names are checked; those of the state itself may hold more than tensors.
    copied.load_state_dict({**state, **tensors}, strict=False)
    return copied


class _CopyComputed(TorchFunctionMode):
    """Inside it, deepcopy copies tensors that were computed from weights, which torch refuses, as plain numbers.

    Hooks such as `torch.nn.utils.weight_norm` leave such tensors in their layers, and compute them anew in each pass.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            return args[0].detach().clone()
        return func(*args, **(kwargs or {}))


def clone(state: State) -> State:
    """Copy a state so that the copy shares no memory with it.

    Args:
        state: Tensors by name.

    Returns:
        Detached copies by the same names.
    """
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def not_finite(state: Mapping[str, Tensor]) -> list[str]:
    """Name the tensors that hold NaN or an infinity.

    Args:
        state: Tensors by name, all on one device.

    Returns:
        The names in the order of the state; tensors of integers are never among them.
    """
    some = {name: tensor.detach() for name, tensor in state.items() if tensor.is_floating_point() and tensor.numel()}
    # The extremes are NaN where any entry is. `isfinite` of the tensor itself takes thirty times as long.
    finite = [torch.stack(torch.aminmax(tensor)).isfinite().all() for tensor in some.values()]
    # All are read at once, since each reading waits for the device.
    found = torch.stack(finite).cpu().tolist() if finite else []
    return [name for name, is_finite in zip(some, found, strict=True) if not is_finite]


def add(a: Params, b: Params) -> Params:
    """Add two sets of parameters entry by entry.

    Args:
        a: The first summand.
        b: The second one, with the same names and shapes.

    Returns:
        `a + b`, by name.
    """
    return {name: a[name] + b[name] for name in a}


def pearson(a: Params, b: Params) -> float:
    """Compute the Pearson correlation over all entries of two sets of parameters, in float64.

    Args:
        a: The first set.
        b: The second one, with the same names and shapes.

    Returns:
        A number in `[-1, 1]`; NaN where one of them is constant.
    """
    x, y = (torch.cat([params[name].flatten() for name in a]).double() for params in (a, b))
    return float(torch.corrcoef(torch.stack([x, y]))[0, 1])


def batch_norms(net: nn.Module) -> list[_BatchNorm]:
    """List the batch-norm layers that keep running statistics.

    Args:
        net: The network.

    Returns:
        The layers in the order of `net.modules()`.
    """
    return [m for m in net.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


def batch_norm_affine(net: nn.Module) -> dict[str, nn.Parameter]:
    """Find the scale (gamma) and shift (beta) of the layers that `batch_norms` lists.

    Args:
        net: The network.

    Returns:
        The parameters by their names in the state dictionary; a layer may have none.
    """
    layers = set(batch_norms(net))
    return {
        f"{prefix}.{name}" if prefix else name: parameter
        for prefix, module in net.named_modules()
        if module in layers
        for name, parameter in module.named_parameters(recurse=False)
    }


def norm_affine(net: nn.Module) -> dict[str, nn.Parameter]:
    """Find the scale (gamma) and shift (beta) of the normalisation layers of every kind.

    Args:
        net: The network.

    Returns:
        The parameters by the names under which `named_parameters` lists them; a layer may have none.
    """
    found = {id(p) for module in net.modules() if isinstance(module, NORMS) for p in module.parameters(recurse=False)}
    return {name: parameter for name, parameter in net.named_parameters() if id(parameter) in found}


def reset_batch_norms(net: nn.Module) -> None:
    """Set gamma to 1, beta to 0, the running mean to 0 and the running variance to 1, in place.

    Args:
        net: The network whose batch-norm layers are reset.
    """
    for layer in batch_norms(net):
        layer.reset_parameters()


@contextmanager
def eval_mode(net: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode for a block, and leave it afterwards as it was before.

    Each module gets its own mode back, and what passes within the block have made of its attributes: hooks such as
    `torch.nn.utils.weight_norm` set a layer's weight in each pass.

    Args:
        net: The network.
    """
    before = [(module, vars(module).copy()) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, attributes in before:
            vars(module).clear()
            vars(module).update(attributes)


def task_logits(net: nn.Module, state: State, x: Tensor, classes: slice) -> Tensor:
    """Compute a task's logits with the weights and buffers of a state, and leave the network's own as they are.

    Args:
        net: The network.
        state: A state of the network, as `fitted` takes it.
        x: Inputs `(n, ...)`, on the device of `state`.
        classes: The columns of the task.

    Returns:
        Logits `(n, classes of the task)`.

    Raises:
        InputError: The state is not one of this network, or the network's output is not logits with these columns.
    """
    tensors = fitted(net, state)
    # Each module's own names, and no ties by torch: it does not give a module back its weights that has two names.
    held = {name: tensors[first] for name, first in _held(net)}
    logits = functional_call(net, held, (x,), tie_weights=False)
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(x):
        found = f"a tensor {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise InputError(
            f"this {type(net).__name__} gives {found} for {len(x)} inputs; it must give logits alone, (n, classes)"
        )
    if classes.stop is not None and classes.stop > logits.shape[1]:
        raise InputError(
            f"this {type(net).__name__} with this state gives {logits.shape[1]} logits, and the task has the columns "
            f"{classes.start} to {classes.stop - 1}"
        )
    return logits[:, classes]
