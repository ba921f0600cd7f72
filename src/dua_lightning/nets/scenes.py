"""AlexNet and VGG11, with and without batch normalisation, as the paper takes them from torchvision.

Built here layer by layer so that `width` can shrink them; at width 1 their weights have torchvision's names and shapes
(with `body.` in front), so that its ImageNet weights load.

[Krizhevsky2012] A. Krizhevsky, I. Sutskever, G. Hinton. ImageNet classification with deep convolutional neural
networks. NeurIPS 2012.
[Simonyan2014] K. Simonyan, A. Zisserman. Very deep convolutional networks for large-scale image recognition.
arXiv:1409.1556, 2014.
"""

import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from textwrap import shorten
from typing import Literal
from urllib.error import URLError

import torch
from safetensors.torch import load_file
from torch import nn

from dua_lightning.errors import InputError
from dua_lightning.nets.network import Network
from dua_lightning.params import State, lacks
from dua_lightning.streams import derive

VGG11 = (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M")
"""Channels of the convolutions, and "M" for a 2x2 maximum pooling: configuration A of [Simonyan2014]."""
SMALLEST = {"alexnet": 63, "vgg11": 32, "vgg11_bn": 32}
"""The side of the smallest input that is not pooled away, in pixels."""


def alexnet(
    shape: tuple[int, ...],
    classes: int,
    seed: int,
    width: float = 1.0,
    pooled: int | None = None,
    weights: str = "none",
) -> Network:
    """Build AlexNet [Krizhevsky2012] in torchvision's version.

    Args:
        shape: The shape of one input, `(channels, height, width)`.
        classes: The number of columns of the head, which is always drawn.
        seed: The run's seed; weights are drawn from the stream `(seed, "weights")`.
        width: A factor for the numbers of channels and hidden units.
        pooled: The side of the feature map that the classifier sees; the published 6 by default, 1 for small inputs.
        weights: `none`, `imagenet` or the path of a state dictionary, as in `vgg11`.

    Returns:
        The network.

    Raises:
        InputError: The weights cannot be had or do not fit, or the input is too small.
    """
    side = 6 if pooled is None else pooled
    c = [_scaled(channels, width) for channels in (64, 192, 384, 256, 256, 4096)]

    def body() -> nn.Sequential:
        features = nn.Sequential(
            *(nn.Conv2d(shape[0], c[0], 11, stride=4, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, stride=2)),
            *(nn.Conv2d(c[0], c[1], 5, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, stride=2)),
            *(nn.Conv2d(c[1], c[2], 3, padding=1), nn.ReLU(inplace=True)),
            *(nn.Conv2d(c[2], c[3], 3, padding=1), nn.ReLU(inplace=True)),
            *(nn.Conv2d(c[3], c[4], 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(3, stride=2)),
        )
        classifier = nn.Sequential(
            *(nn.Dropout(0.5), nn.Linear(c[4] * side**2, c[5]), nn.ReLU(inplace=True)),
            *(nn.Dropout(0.5), nn.Linear(c[5], c[5]), nn.ReLU(inplace=True)),
        )
        return _body(features, side, classifier)

    return _network("alexnet", body, shape, c[5], classes, seed, weights)


def vgg11(
    shape: tuple[int, ...],
    classes: int,
    seed: int,
    width: float = 1.0,
    pooled: int | None = None,
    weights: str = "none",
) -> Network:
    """Build VGG11 [Simonyan2014] in torchvision's version.

    Args:
        shape: The shape of one input, `(channels, height, width)`.
        classes: The number of columns of the head, which is always drawn.
        seed: The run's seed; weights are drawn from the stream `(seed, "weights")`.
        width: A factor for the numbers of channels and hidden units.
        pooled: The side of the feature map that the classifier sees; the published 7 by default, 1 for small inputs.
        weights: `none` draws them as torchvision does; `imagenet` takes torchvision's, downloaded once and checked by
            digest; a path is that of such a state dictionary (`.pth` or `.safetensors`), or of a checkpoint that holds
            one. One prefix before all its names is taken off, as that of this package's own files.

    Returns:
        The network.

    Raises:
        InputError: The weights cannot be had or do not fit, or the input is too small.
    """
    return _vgg11("vgg11", shape, classes, seed, width, pooled, weights)


def vgg11_bn(
    shape: tuple[int, ...],
    classes: int,
    seed: int,
    width: float = 1.0,
    pooled: int | None = None,
    weights: str = "none",
) -> Network:
    """Build VGG11 with a batch normalisation between each convolution and its rectification.

    Args:
        shape: The shape of one input, `(channels, height, width)`.
        classes: The number of columns of the head, which is always drawn.
        seed: The run's seed; weights are drawn from the stream `(seed, "weights")`.
        width: A factor for the numbers of channels and hidden units.
        pooled: The side of the feature map that the classifier sees; the published 7 by default, 1 for small inputs.
        weights: `none`, `imagenet` or the path of a state dictionary, as in `vgg11`.

    Returns:
        The network.

    Raises:
        InputError: The weights cannot be had or do not fit, or the input is too small.
    """
    return _vgg11("vgg11_bn", shape, classes, seed, width, pooled, weights)


def _vgg11(
    name: Literal["vgg11", "vgg11_bn"],
    shape: tuple[int, ...],
    classes: int,
    seed: int,
    width: float,
    pooled: int | None,
    weights: str,
) -> Network:
    side = 7 if pooled is None else pooled
    hidden = _scaled(4096, width)

    def body() -> nn.Sequential:
        layers: list[nn.Module] = []
        channels = shape[0]
        for entry in VGG11:
            if isinstance(entry, str):
                layers.append(nn.MaxPool2d(2))
                continue
            layers.append(nn.Conv2d(channels, _scaled(entry, width), 3, padding=1))
            channels = _scaled(entry, width)
            if name == "vgg11_bn":
                layers.append(nn.BatchNorm2d(channels))
            layers.append(nn.ReLU(inplace=True))
        classifier = nn.Sequential(
            *(nn.Linear(channels * side**2, hidden), nn.ReLU(inplace=True), nn.Dropout(0.5)),
            *(nn.Linear(hidden, hidden), nn.ReLU(inplace=True), nn.Dropout(0.5)),
        )
        return _body(nn.Sequential(*layers), side, classifier)

    return _network(name, body, shape, hidden, classes, seed, weights)


def _body(features: nn.Sequential, pooled: int, classifier: nn.Sequential) -> nn.Sequential:
    parts = {"features": features, "avgpool": nn.AdaptiveAvgPool2d(pooled), "flatten": nn.Flatten()}
    return nn.Sequential(OrderedDict([*parts.items(), ("classifier", classifier)]))


def _network(
    name: str,
    make_body: Callable[[], nn.Sequential],
    shape: tuple[int, ...],
    hidden: int,
    classes: int,
    seed: int,
    weights: str,
) -> Network:
    if min(shape[1:]) < SMALLEST[name]:
        raise InputError(f"{name} needs inputs of at least {SMALLEST[name]} pixels, got {shape[1]}x{shape[2]}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "weights"))
        body = make_body()
        if name != "alexnet":
            _draw_as_torchvision(body)
        net = Network(body, nn.Linear(hidden, classes))
    if weights != "none":
        _load(net.body, name, weights)
    return net


def _draw_as_torchvision(body: nn.Sequential) -> None:
    """Draw He's normal weights for convolutions, small normal ones for linear layers, and no bias."""
    for module in body.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


def _load(body: nn.Module, name: str, weights: str) -> None:
    wanted = body.state_dict()
    found = _without_prefix(_imagenet(name) if weights == "imagenet" else _from_file(Path(weights)), wanted, weights)
    for key, tensor in wanted.items():
        if key not in found:
            raise InputError(f"weights={weights} does not fit this {name}: it {lacks(found, key)}")
        if found[key].shape != tensor.shape:
            raise InputError(
                f"weights={weights} does not fit this {name}: {key} is {tuple(found[key].shape)}, and "
                f"{tuple(tensor.shape)} is needed; give width and pooled of the file's network, 1 and the published "
                "size for published weights"
            )
    body.load_state_dict({key: found[key] for key in wanted})


def _without_prefix(found: State, wanted: State, weights: str) -> State:
    """The tensors by the names that are wanted, where all of these stand behind one prefix.

    `DataParallel`, `torch.compile`, Lightning's modules and this package's own `Network` put one before all names.
    """
    first = next(iter(wanted))
    ends = [key.removesuffix(first) for key in found if f".{key}".endswith(f".{first}")]
    prefixes = [prefix for prefix in ends if all(f"{prefix}{key}" in found for key in wanted)]
    if "" in prefixes or not prefixes:
        return found
    if len(prefixes) > 1:
        raise InputError(
            f"weights={weights} has these weights more than once, under {', '.join(prefixes)}; save one network alone"
        )
    return {key: found[prefixes[0] + key] for key in wanted}


def _imagenet(name: str) -> State:
    from torchvision.models import get_model_weights

    url = get_model_weights(name).DEFAULT.url
    try:
        # torchvision's own helper would unpickle.
        state: State = torch.hub.load_state_dict_from_url(url, check_hash=True, weights_only=True, map_location="cpu")
    except (URLError, OSError, RuntimeError) as error:
        raise InputError(
            f"the ImageNet weights of {name} could not be downloaded from {url} ({error}); run once with network "
            "access, or use weights=PATH or weights=none"
        ) from error
    return state


def _from_file(path: Path) -> State:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded = torch.load(path, weights_only=True, map_location="cpu")
    except FileNotFoundError as error:
        raise InputError(f"weights={path} is no file; give imagenet, none, or a file of tensors") from error
    except Exception as error:
        # torch.load raises half a dozen kinds for what is not a state dictionary.
        reason = shorten(f"{type(error).__name__}: {error}", 100, placeholder=" ..")
        if isinstance(error, UnpicklingError):
            # Torch's own text advises to load the file all the same.
            other = re.search(r"GLOBAL (\S+)", str(error))
            reason = f"it holds {other[1] if other else 'other things'}"
        raise InputError(
            f"weights={path} cannot be read as tensors alone ({reason}); give a file that torch.save has made of the "
            "network's state_dict()"
        ) from error
    # A checkpoint keeps the state beside counters and the like.
    entries = loaded if isinstance(loaded, dict) else {}
    nested = {key: _only_tensors(value) for key, value in entries.items() if _only_tensors(value)}
    if nested and "state_dict" not in nested and len(nested) > 1:
        raise InputError(f"weights={path} holds several states ({', '.join(map(str, nested))}); save one of them alone")
    state = nested.get("state_dict") or next(iter(nested.values()), None) or _only_tensors(entries)
    if not state:
        raise InputError(f"weights={path} is not a state dictionary; give imagenet, none, or a file of tensors")
    return state


def _only_tensors(value: object) -> State:
    """The tensors of a dictionary by their names; none of anything else."""
    entries = value.items() if isinstance(value, dict) else ()
    return {str(key): entry for key, entry in entries if isinstance(entry, torch.Tensor)}


def _scaled(channels: int, width: float) -> int:
    if not width > 0:
        raise InputError(f"width is positive, got {width}")
    return max(1, round(channels * width))
