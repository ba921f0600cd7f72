"""Random networks of the layers that the engine has rules for."""

import math
from collections.abc import Callable

import torch
from hypothesis import assume
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import softplus

from dua_lightning.nets import Network
from tests.helpers.nets import CLASSES, Case

Make = Callable[[], nn.Module]

CONVS = {2: nn.Conv1d, 3: nn.Conv2d, 4: nn.Conv3d}
NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm1d, 3: nn.BatchNorm2d, 4: nn.BatchNorm3d}
POOLS = {
    2: (nn.MaxPool1d, nn.AvgPool1d, nn.AdaptiveMaxPool1d, nn.AdaptiveAvgPool1d),
    3: (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d),
    4: (nn.MaxPool3d, nn.AvgPool3d, nn.AdaptiveMaxPool3d, nn.AdaptiveAvgPool3d),
}
SMOOTH = (nn.Softplus, nn.Identity)
KINKED = (*SMOOTH, nn.Tanh, nn.GELU, nn.ReLU, nn.LeakyReLU, nn.Dropout)
SHAPES = {
    1: [st.integers(2, 6)],
    2: [st.sampled_from([2, 4]), st.integers(2, 9)],
    3: [st.sampled_from([2, 4]), st.integers(3, 12), st.integers(3, 12)],
    4: [st.sampled_from([2, 4]), *[st.integers(2, 5)] * 3],
}
"""The shapes of one sample, by the number of its dimensions: features, or channels and positions."""


class Residual(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer(x)


class Branches(nn.Module):
    """Two layers whose outputs have one and the same gradient."""

    def __init__(self, left: nn.Module, right: nn.Module) -> None:
        super().__init__()
        self.left, self.right = left, right

    def forward(self, x: Tensor) -> Tensor:
        return self.left(x) + self.right(x)


class Again(nn.Module):
    """A layer that is used twice."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(softplus(self.layer(x)))


class TiedPair(nn.Module):
    """Two layers of one kind that share a weight and not a bias."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second
        second.weight = first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(softplus(self.first(x)))


@st.composite
def cases(draw: st.DrawFn, smooth: bool = False) -> Case:
    """One to four layers; `smooth`: without kinks, at which rounding would choose a side, and well conditioned."""
    shape = tuple(draw(st.tuples(*SHAPES[draw(st.integers(1, 4))])))
    start, makes = shape, []
    for _ in range(draw(st.integers(1, 4))):
        makes.append(draw(blocks(shape, smooth)))
        shape = _shape(makes[-1], shape)
        if len(shape) > 1 and draw(st.integers(0, 4)) == 0:
            makes.append(nn.Flatten)
            shape = (math.prod(shape),)

    def make(_: int) -> nn.Module:
        body = nn.Sequential(*(make() for make in makes), nn.Flatten())
        for layer in body.modules():
            if isinstance(layer, (nn.LayerNorm, nn.GroupNorm)):
                for p in layer.parameters():
                    nn.init.uniform_(p, 0.5, 2.0)
        return Network(body, nn.Linear(math.prod(shape), CLASSES))

    assume(list(make(0).body.parameters()))
    return Case("drawn", start, make)


@st.composite
def blocks(draw: st.DrawFn, shape: tuple[int, ...], smooth: bool) -> Make:
    """A layer with weights, alone or with something around it, and perhaps a layer without weights after it."""
    kind = draw(st.sampled_from(["plain", "plain", "plain", "residual", "branches", "again", "tied"]))
    layer = draw(layers(shape, smooth, same=kind != "plain"))
    parts: list[Make] = [layer]
    if kind == "residual":
        parts = [lambda: Residual(layer())]
    elif kind == "branches":
        other = draw(layers(shape, smooth, same=True))
        parts = [lambda: Branches(layer(), other())]
    elif kind == "again":
        parts = [lambda: Again(layer())]
    elif kind == "tied" and layer().weight is not None:
        parts = [lambda: TiedPair(layer(), layer())]
    after = _shape(lambda: nn.Sequential(*(make() for make in parts)), shape)
    parts.append(draw(st.sampled_from(SMOOTH if smooth else KINKED)))
    if not smooth and draw(st.booleans()):
        parts[-1] = lambda: nn.ReLU(inplace=True)
    if len(after) > 1 and draw(st.booleans()):
        largest, mean, adaptive_largest, adaptive = POOLS[len(after)]
        # Not more than there are: of equal numbers a normalisation makes a gradient of rounding errors.
        to = draw(st.integers(1, min(*after[1:], 3)))
        fixed = [lambda: mean(2)] if smooth else [lambda: mean(2), lambda: largest(2), lambda: largest(2, stride=1)]
        free = [lambda: adaptive(to)] if smooth else [lambda: adaptive(to), lambda: adaptive_largest(to)]
        parts.append(draw(st.sampled_from(free + fixed if min(after[1:]) > 1 else free)))
    return lambda: nn.Sequential(*(make() for make in parts))


@st.composite
def layers(draw: st.DrawFn, shape: tuple[int, ...], smooth: bool, same: bool) -> Make:
    """A layer that takes samples of a shape; `same`: and returns such samples."""
    dims, bias = len(shape), draw(st.booleans())
    # Normalised, a single number depends on nothing, and two hardly on anything: a gradient of rounding errors.
    least = 4 if smooth else 2
    starts = [i for i in range(dims) if math.prod(shape[i:]) >= least]
    groups = [g for g in range(1, shape[0] + 1) if shape[0] % g == 0 and math.prod(shape) // g >= least]
    kinds = ["linear"] * 3 + ["conv"] * 5 * (dims > 1) + ["batch norm"]
    kind = draw(st.sampled_from(kinds + ["layer norm"] * bool(starts) + ["group norm"] * bool(groups)))
    if kind == "linear":
        outputs = shape[-1] if same else draw(st.integers(1, 5))
        return lambda: nn.Linear(shape[-1], outputs, bias)
    if kind == "batch norm":
        affine = draw(st.integers(0, 3)) > 0
        return lambda: NORMS[dims](shape[0], affine=affine)
    if kind == "layer norm":
        normalised = shape[draw(st.sampled_from(starts)) :]
        return lambda: nn.LayerNorm(normalised, bias=bias)
    if kind == "group norm":
        count = draw(st.sampled_from(groups))
        return lambda: nn.GroupNorm(count, shape[0])
    return draw(convs(shape, same, bias))


@st.composite
def convs(draw: st.DrawFn, shape: tuple[int, ...], same: bool, bias: bool) -> Make:
    channels, *sizes = shape
    outputs = channels if same else draw(st.sampled_from([2, 4]))
    common = [g for g in range(1, channels + 1) if channels % g == 0 and outputs % g == 0]
    mode = draw(st.sampled_from(["zeros", "zeros", "reflect", "replicate", "circular"]))
    kernel, stride, dilation, padding = [], [], [], []
    named = "same" if same else draw(st.sampled_from([None, None, "same", "valid"]))
    for size in sizes:
        k, s, d = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(1, 2))
        # Reflected, the padding is smaller than the image; wrapped, not larger.
        most = {"reflect": size - 1, "circular": size}.get(mode, 2)
        p = draw(st.integers(0, min(2, most))) if named is None else 0
        if named == "same":
            s = 1
            if d * (k - 1) - d * (k - 1) // 2 > most:
                k = 1
        elif d * (k - 1) >= size + 2 * p:
            k = 1
        for values, value in ((kernel, k), (stride, s), (dilation, d), (padding, p)):
            values.append(value)
    settings = {
        "stride": tuple(stride),
        "padding": tuple(padding) if named is None else named,
        "dilation": tuple(dilation),
        "groups": draw(st.sampled_from(common)),
        "bias": bias,
        "padding_mode": mode,
    }
    return lambda: CONVS[len(shape)](channels, outputs, tuple(kernel), **settings)


def _shape(make: Make, shape: tuple[int, ...]) -> tuple[int, ...]:
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        return tuple(make().eval()(torch.zeros(2, *shape)).shape[1:])
