"""Any classifier of torchvision, as a body that all tasks share and a head."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from dua_lightning.errors import InputError
from dua_lightning.nets.adapter import check_name, check_pass, take_last
from dua_lightning.nets.network import Network
from dua_lightning.nets.weights import load_weights
from dua_lightning.streams import derive


def from_torchvision(
    name: str,
    shape: tuple[int, ...],
    classes: int,
    seed: int,
    weights: str = "none",
    folder: str | Path | None = None,
    **arguments: Any,
) -> Network:
    """Build a classifier of torchvision; its last linear layer makes way for the head.

    The body keeps torchvision's names, with `body.` in front.

    Args:
        name: Its name in `torchvision.models`, such as `mobilenet_v2`.
        shape: The shape of one input, `(3, height, width)`.
        classes: The number of columns of the head, which is always drawn.
        seed: The run's seed; weights are drawn from the stream `(seed, "weights")`.
        weights: `none` draws them as torchvision does, `imagenet` takes torchvision's, and a path is that of a file, as
            in `load_weights`.
        folder: Where torchvision's weights are looked for, and downloaded to; by default torch's own cache.
        **arguments: Further arguments of torchvision's function, such as `image_size=96` of a vision transformer.

    Returns:
        The network.

    Raises:
        InputError: There is no such network, it does not take such inputs or has no last linear layer, or the weights
            cannot be had or do not fit.
    """
    # It takes a second, and other networks do without it.
    from torchvision import models

    check_name(name, models.list_models(models), "torchvision")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "weights"))
        try:
            body = models.get_model(name, weights=None, **arguments)
        except (TypeError, ValueError, AttributeError) as error:
            raise InputError(f"torchvision cannot make {name} with {arguments}: {error}") from error
        if getattr(body, "aux_logits", False):
            raise InputError(f"{name} has further outputs while it is trained; give it the argument aux_logits=False")
        features = take_last(body, name)
        net = Network(body, nn.Linear(features, classes), torch.channels_last)
    if weights != "none":
        load_weights(net.body, name, weights, folder)
    check_pass(net, shape, name)
    return net
