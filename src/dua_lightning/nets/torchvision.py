"""Any classifier of torchvision, as a body that all tasks share and a head."""

from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dua_lightning.errors import InputError
from dua_lightning.nets.network import Network
from dua_lightning.nets.weights import load_weights
from dua_lightning.params import inputs
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

    known = models.list_models(models)
    if name not in known:
        near = get_close_matches(name, known, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(known)}"
        raise InputError(f"torchvision has no classifier {name}; {hint}")
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
            x = torch.zeros(2, *shape)
            found = net.eval()(inputs(net, x, x.device))
    except Exception as error:  # of any kind: the networks' own checks
        raise InputError(f"{name} cannot take inputs of the shape {shape}: {' '.join(str(error).split())}") from error
    finally:
        net.train(training)
    if found.shape != (2, net.head.out_features):
        raise InputError(
            f"the body of {name} does not give one row of features for an input; its last layer is not linear"
        )
