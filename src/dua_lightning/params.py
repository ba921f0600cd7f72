"""Named tensors of a network, and the little algebra that importances need."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm  # no public class is common to these layers

Params = dict[str, Tensor]
"""Weights theta or importances Omega of the shared body, by name; `Omega[name].shape == theta[name].shape`."""

State = dict[str, Tensor]
"""A full state dictionary: body, buffers and head."""


def body_names(net: nn.Module) -> dict[str, str]:
    """Name the parameters of the shared body: everything but `net.head`, or all of a network without that attribute.

    Args:
        net: The network.

    Returns:
        Each parameter's name with the name under which `named_parameters` lists it. The two differ for a weight that is
        tied, which a state dictionary holds once per use.
    """
    head = getattr(net, "head", None)
    skip = {id(p) for p in head.parameters()} if isinstance(head, nn.Module) else set()
    first: dict[int, str] = {}
    return {
        name: first.setdefault(id(p), name)
        for name, p in net.named_parameters(remove_duplicate=False)
        if id(p) not in skip
    }


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


def loaded(net: nn.Module, state: State) -> nn.Module:
    """Make a copy of a network with the tensors of a state, on the state's device.

    Args:
        net: The network; it stays as it is.
        state: The full state dictionary that the copy gets.

    Returns:
        The copy.
    """
    copied = copy.deepcopy(net).to(device_of(state))
    copied.load_state_dict(state)
    return copied


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


def reset_batch_norms(net: nn.Module) -> None:
    """Set gamma to 1, beta to 0, the running mean to 0 and the running variance to 1, in place.

    Args:
        net: The network whose batch-norm layers are reset.
    """
    for layer in batch_norms(net):
        layer.reset_parameters()


@contextmanager
def eval_mode(net: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode for a block, and each module back into its own mode afterwards.

    Args:
        net: The network.
    """
    training = [module for module in net.modules() if module.training]
    net.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def task_logits(net: nn.Module, state: State, x: Tensor, classes: slice) -> Tensor:
    """Compute a task's logits with the weights and buffers of a state, and leave the network as it is.

    Args:
        net: The network. All uses of a tied weight get what `state` has under the first one's name.
        state: The tensors by name; what it does not have is the network's own, on the device of `x`.
        x: Inputs `(n, ...)`, on the device of `state`.
        classes: The columns of the task.

    Returns:
        Logits `(n, classes of the task)`.
    """
    own = chain(net.named_parameters(), net.named_buffers())
    tensors = {name: state[name] if name in state else tensor.to(x.device) for name, tensor in own}
    logits: Tensor = functional_call(net, tensors, (x,))
    return logits[:, classes]
