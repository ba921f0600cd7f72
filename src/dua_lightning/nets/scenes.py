"""AlexNet and VGG11, with and without batch normalisation, as the paper takes them from torchvision.

Built here layer by layer so that `width` can shrink them; at width 1 their weights have torchvision's names and shapes
(with `body.` in front), so that its ImageNet weights load.

[Krizhevsky2012] A. Krizhevsky, I. Sutskever, G. Hinton. ImageNet classification with deep convolutional neural
networks. NeurIPS 2012.
[Simonyan2014] K. Simonyan, A. Zisserman. Very deep convolutional networks for large-scale image recognition.
arXiv:1409.1556, 2014.
"""

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from dua_lightning.errors import InputError
from dua_lightning.nets.network import Network
from dua_lightning.nets.weights import load_weights
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
    folder: str | Path | None = None,
) -> Network:
    """Build AlexNet [Krizhevsky2012] in torchvision's version.

    Args:
        shape: The shape of one input, `(channels, height, width)`.
        classes: The number of columns of the head, which is always drawn.
        seed: The run's seed; weights are drawn from the stream `(seed, "weights")`.
        width: A factor for the numbers of channels and hidden units.
        pooled: The side of the feature map that the classifier sees; the published 6 by default, 1 for small inputs.
        weights: `none`, `imagenet` or the path of a file, as in `load_weights`.
        folder: Where torchvision's weights are looked for, and downloaded to; by default torch's own cache.

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

    return _network("alexnet", body, shape, c[5], classes, seed, weights, folder)


def vgg11(
    shape: tuple[int, ...],
    classes: int,
    seed: int,
    width: float = 1.0,
    pooled: int | None = None,
    weights: str = "none",
    folder: str | Path | None = None,
) -> Network:
    """Build VGG11 [Simonyan2014] in torchvision's version.

    Args:
        shape: The shape of one input, `(channels, height, width)`.
        classes: The number of columns of the head, which is always drawn.
        seed: The run's seed; weights are drawn from the stream `(seed, "weights")`.
        width: A factor for the numbers of channels and hidden units.
        pooled: The side of the feature map that the classifier sees; the published 7 by default, 1 for small inputs.
        weights: `none` draws them as torchvision does, `imagenet` takes torchvision's, and a path is that of a file, as
            in `load_weights`.
        folder: Where torchvision's weights are looked for, and downloaded to; by default torch's own cache.

    Returns:
        The network.

    Raises:
        InputError: The weights cannot be had or do not fit, or the input is too small.
    """
    return _vgg11("vgg11", shape, classes, seed, width, pooled, weights, folder)


def vgg11_bn(
    shape: tuple[int, ...],
    classes: int,
    seed: int,
    width: float = 1.0,
    pooled: int | None = None,
    weights: str = "none",
    folder: str | Path | None = None,
) -> Network:
    """Build VGG11 with a batch normalisation between each convolution and its rectification.

    Args:
        shape: The shape of one input, `(channels, height, width)`.
        classes: The number of columns of the head, which is always drawn.
        seed: The run's seed; weights are drawn from the stream `(seed, "weights")`.
        width: A factor for the numbers of channels and hidden units.
        pooled: The side of the feature map that the classifier sees; the published 7 by default, 1 for small inputs.
        weights: `none`, `imagenet` or the path of a file, as in `load_weights`.
        folder: Where torchvision's weights are looked for, and downloaded to; by default torch's own cache.

    Returns:
        The network.

    Raises:
        InputError: The weights cannot be had or do not fit, or the input is too small.
    """
    return _vgg11("vgg11_bn", shape, classes, seed, width, pooled, weights, folder)


def _vgg11(
    name: Literal["vgg11", "vgg11_bn"],
    shape: tuple[int, ...],
    classes: int,
    seed: int,
    width: float,
    pooled: int | None,
    weights: str,
    folder: str | Path | None,
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

    return _network(name, body, shape, hidden, classes, seed, weights, folder)


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
    folder: str | Path | None,
) -> Network:
    if min(shape[1:]) < SMALLEST[name]:
        raise InputError(f"{name} needs inputs of at least {SMALLEST[name]} pixels, got {shape[1]}x{shape[2]}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "weights"))
        body = make_body()
        if name != "alexnet":
            _draw_as_torchvision(body)
        net = Network(body, nn.Linear(hidden, classes), torch.channels_last)
    if weights != "none":
        load_weights(net.body, name, weights, folder)
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


def _scaled(channels: int, width: float) -> int:
    if not width > 0:
        raise InputError(f"width is positive, got {width}")
    return max(1, round(channels * width))
