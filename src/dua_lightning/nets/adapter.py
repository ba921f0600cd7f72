"""The common part of the adapters: a library's classifier becomes a body that all tasks share and a head."""

from collections.abc import Sequence
from difflib import get_close_matches

import torch
from torch import nn

from dua_lightning.errors import InputError
from dua_lightning.nets.network import Network


def check_name(name: str, known: Sequence[str], library: str) -> None:
    """Refuse the name of a classifier that a library does not have.

    Args:
        name: The name.
        known: The names that there are.
        library: The library's name, for the message.

    Raises:
        InputError: The name is not among them; the message has the nearest ones, or all of a few.
    """
    if name in known:
        return
    near = get_close_matches(name, known, n=3)
    some = ", ".join(known) if len(known) < 100 else f"{', '.join(known[:10])} and {len(known) - 10} more"
    hint = f"did you mean {' or '.join(near)}?" if near else f"it has {some}"
    raise InputError(f"{library} has no classifier {name}; {hint}")


def take_last(net: nn.Module, name: str) -> int:
    """Replace the last linear layer of a network by the identity, in place.

    Args:
        net: The network.
        name: Its name, for the message.

    Returns:
        The number of features that the layer took.

    Raises:
        InputError: There is no linear layer.
    """
    linear = [place for place, module in net.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise InputError(f"{name} has no last linear layer, whose columns could belong to tasks")
    last = net.get_submodule(linear[-1])
    net.set_submodule(linear[-1], nn.Identity())
    assert isinstance(last, nn.Linear)
    return last.in_features


def check_pass(net: Network, shape: tuple[int, ...], name: str) -> None:
    """Refuse a network that does not make one row of logits of an input.

    Args:
        net: The network.
        shape: The shape of one input.
        name: The network's name, for the message.

    Raises:
        InputError: The pass fails or makes something else.
    """
    training = net.training
    try:
        with torch.no_grad():
            found = net.eval()(torch.zeros(1, *shape))
    except Exception as error:  # of any kind: the networks' own checks
        raise InputError(f"{name} cannot take inputs of the shape {shape}: {' '.join(str(error).split())}") from error
    finally:
        net.train(training)
    if found.shape != (1, net.head.out_features):
        raise InputError(
            f"the body of {name} does not give one row of features for an input; its last layer is not linear"
        )
