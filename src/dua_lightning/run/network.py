"""The network of a run, whose last layer may have any name."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from dua_lightning.errors import InputError
from dua_lightning.nets.adapter import with_head
from dua_lightning.run.build import HEAD, build, check, without_head


def build_network(node: Mapping[str, Any], place: str, shape: tuple[int, ...], classes: int, seed: int) -> nn.Module:
    """Build a network, and make the layer that its setting `head` names the head.

    Args:
        node: Its settings, in plain values.
        place: Their place in the configuration, for messages.
        shape: The shape of one input.
        classes: The number of columns of the head.
        seed: The run's seed.

    Returns:
        The network.

    Raises:
        InputError: A setting cannot be used, or the network has no such last layer.
    """
    own = without_head(node, place)
    net: nn.Module = build(own, place, nn.Module, shape=shape, classes=classes, seed=seed)
    # A number names a layer of nn.Sequential.
    name = check(node[HEAD], int | str | None, f"{place}.{HEAD}") if own is not node else None
    if name is None:
        return net
    try:
        return with_head(net, str(name), shape)
    except InputError as error:
        raise InputError(f"{place}.{HEAD}={name} cannot be used: {error}") from error
