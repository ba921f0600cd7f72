"""The common part of the adapters: a library's classifier becomes a body that all tasks share and a head."""

import math
from collections.abc import Sequence
from difflib import get_close_matches

import torch
from torch import Tensor, nn

from dua_lightning.errors import InputError
from dua_lightning.nets.network import Network
from dua_lightning.params import eval_mode, inputs


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


def with_head(net: nn.Module, place: str, shape: tuple[int, ...]) -> nn.Module:
    """Make the last layer of a network, whatever its name, the head; all else becomes the body.

    Args:
        net: The network; it loses the layer.
        place: The layer's name, with dots for a layer within another one: `classifier.1`.
        shape: The shape of one input.

    Returns:
        The network of body and head; the very network if the layer is called `head` already.

    Raises:
        InputError: There is no linear layer of that name, it is not the last one that a pass comes to, or the network
            does not take such inputs.
    """
    name = type(net).__name__
    linear = {found: module for found, module in net.named_modules() if isinstance(module, nn.Linear)}
    if place not in linear:
        raise InputError(f"this {name} has no linear layer {place}; it has {', '.join(linear) or 'none'}")
    if place == "head":
        return net
    before = _passed(net, shape, name)
    net.set_submodule(place, nn.Identity())
    whole = Network(net, linear[place])
    not_last = InputError(f"{place} is not the last step of this {name}; give the name of its last linear layer")
    try:
        after = _passed(whole, shape, name)
    except InputError as error:
        raise not_last from error
    if after.shape != before.shape or not (after.is_meta or torch.allclose(after, before)):
        raise not_last
    return whole


def check_pass(net: Network, shape: tuple[int, ...], name: str) -> None:
    """Refuse a network that does not make one row of logits of an input.

    Args:
        net: The network.
        shape: The shape of one input.
        name: The network's name, for the message.

    Raises:
        InputError: The pass fails or makes something else.
    """
    if _passed(net, shape, name).shape != (1, net.head.out_features):
        raise InputError(
            f"the body of {name} does not give one row of features for an input; its last layer is not linear"
        )


def _passed(net: nn.Module, shape: tuple[int, ...], name: str) -> Tensor:
    """The output for one input, whose numbers all differ, in evaluation mode."""
    try:
        with eval_mode(net), torch.no_grad():
            x = torch.linspace(-1, 1, math.prod(shape)).view(1, *shape)
            output: Tensor = net(inputs(net, x, x.device))
    except Exception as error:  # of any kind: the networks' own checks
        raise InputError(
            f"{name} cannot take inputs of the shape {tuple(shape)}: {' '.join(str(error).split())}"
        ) from error
    return output
