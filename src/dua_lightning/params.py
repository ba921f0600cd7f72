"""Named tensors of a network, and the little algebra that importances need."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

Params = dict[str, Tensor]
"""theta or Omega over the shared body; `Omega[name].shape == theta[name].shape`."""

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
    """Tell on which device the tensors of a state are; the processor for a state without any."""
    return next((tensor.device for tensor in state.values()), torch.device("cpu"))


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """Give a tensor on a device, without waiting for the copy; float64 becomes float32 where there is none (mps)."""
    if device.type == "mps" and tensor.dtype == torch.float64:
        tensor = tensor.float()
    return tensor.to(device, non_blocking=True)


def loaded(net: nn.Module, state: State) -> nn.Module:
    """Make a copy of a network with the tensors of a state, on the state's device."""
    copied = copy.deepcopy(net).to(device_of(state))
    copied.load_state_dict(state)
    return copied


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
    """Put a network into evaluation mode, and each module into its own mode again afterwards."""
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
