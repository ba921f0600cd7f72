"""Each layer's rule alone, against one call of autograd for each sample."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from dua_lightning.importance import rules
from dua_lightning.importance.rules import RULES, Rule
from tests.helpers.nets import close, equal

N = 5
POWERS = (1, 2)
CONV = {"kernel_size": 3, "padding": 1}
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(3, 4), (3,)),
    "linear without bias": (lambda: nn.Linear(3, 4, bias=False), (3,)),
    "linear, one input": (lambda: nn.Linear(1, 1), (1,)),
    "linear on a sequence": (lambda: nn.Linear(3, 4), (2, 3)),
    "linear on a sequence of one": (lambda: nn.Linear(3, 4), (1, 3)),
    "linear on a map": (lambda: nn.Linear(3, 4), (2, 5, 3)),
    "conv1d": (lambda: nn.Conv1d(2, 4, 3, stride=2, padding=1), (2, 7)),
    "conv2d": (lambda: nn.Conv2d(2, 3, **CONV), (2, 5, 4)),
    "conv2d, more than a small map": (lambda: nn.Conv2d(2, 3, **CONV), (2, 9, 9)),
    "conv2d without bias": (lambda: nn.Conv2d(2, 3, 2, bias=False), (2, 3, 3)),
    "conv2d of all steps": (lambda: nn.Conv2d(2, 3, (3, 2), (2, 1), (1, 2), (1, 2)), (2, 6, 5)),
    "conv2d in groups": (lambda: nn.Conv2d(4, 6, **CONV, groups=2), (4, 4, 4)),
    "conv2d of each channel": (lambda: nn.Conv2d(3, 3, **CONV, groups=3), (3, 4, 4)),
    "conv1d of each channel, to less than the kernel": (lambda: nn.Conv1d(3, 3, 5, padding=1, groups=3), (3, 6)),
    "conv2d of each channel, a large kernel": (
        lambda: nn.Conv2d(3, 3, (5, 3), (2, 1), (3, 2), (2, 1), groups=3, padding_mode="circular"),
        (3, 5, 4),
    ),
    "conv3d of each channel, a large kernel": (lambda: nn.Conv3d(2, 2, 3, padding=1, groups=2), (2, 4, 3, 2)),
    "conv2d of two for each channel": (lambda: nn.Conv2d(2, 4, 5, padding=2, groups=2), (2, 4, 4)),
    "conv2d of one number": (lambda: nn.Conv2d(2, 3, 1, stride=2, padding=1), (2, 4, 5)),
    "conv2d to one position": (lambda: nn.Conv2d(2, 3, 4), (2, 4, 4)),
    "conv2d, same": (lambda: nn.Conv2d(2, 3, (2, 3), padding="same", dilation=(1, 2)), (2, 5, 5)),
    "conv2d, valid": (lambda: nn.Conv2d(2, 3, 2, padding="valid", stride=2), (2, 5, 5)),
    "conv2d, reflected": (lambda: nn.Conv2d(2, 3, 3, padding=(2, 1), padding_mode="reflect"), (2, 4, 5)),
    "conv2d, replicated": (lambda: nn.Conv2d(2, 3, 3, padding=(2, 1), padding_mode="replicate"), (2, 4, 5)),
    "conv2d, wrapped": (lambda: nn.Conv2d(2, 3, 3, padding=(2, 1), padding_mode="circular"), (2, 4, 5)),
    "conv2d, same and wrapped": (
        lambda: nn.Conv2d(2, 2, (2, 3), padding="same", padding_mode="circular", groups=2),
        (2, 4, 5),
    ),
    "conv3d": (lambda: nn.Conv3d(2, 4, (1, 2, 3), (1, 2, 1), (0, 1, 2), groups=2), (2, 3, 4, 5)),
    "conv3d, same and reflected": (
        lambda: nn.Conv3d(2, 2, (1, 2, 3), padding="same", padding_mode="reflect"),
        (2, 3, 4, 5),
    ),
    "batch norm": (lambda: nn.BatchNorm1d(4), (4,)),
    "batch norm on a sequence": (lambda: nn.BatchNorm1d(4), (4, 3)),
    "batch norm on a map": (lambda: nn.BatchNorm2d(3, eps=0.1), (3, 2, 4)),
    "batch norm on a volume": (lambda: nn.BatchNorm3d(2), (2, 2, 3, 2)),
    "layer norm": (lambda: nn.LayerNorm(4), (4,)),
    "layer norm on a sequence": (lambda: nn.LayerNorm(4, eps=0.1), (3, 4)),
    "layer norm of two dimensions": (lambda: nn.LayerNorm((3, 4)), (2, 3, 4)),
    "layer norm without bias": (lambda: nn.LayerNorm(4, bias=False), (2, 4)),
    "group norm": (lambda: nn.GroupNorm(2, 6), (6,)),
    "group norm on a map": (lambda: nn.GroupNorm(2, 6, eps=0.1), (6, 2, 3)),
    "group norm of each channel": (lambda: nn.GroupNorm(4, 4), (4, 3)),
}
EACH = pytest.mark.parametrize("name", LAYERS)
MAPS = [
    pytest.param({"COMPILED_FROM": 10**9}, id="the library's gradient"),
    pytest.param({"COMPILED_FROM": 1}, id="the compiled loop"),
]
SETTINGS = [
    *MAPS,
    pytest.param({}, id="as it comes"),
    pytest.param({"BLOCK_BYTES": 1}, id="one by one"),
    pytest.param({"BLOCK_BYTES": 2 * 8 * 6}, id="in blocks"),
]


class Seen:
    """A layer in evaluation mode, `N` inputs and output gradients, and each sample's gradients by autograd."""

    def __init__(self, name: str) -> None:
        make, shape = LAYERS[name]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.layer = make().double().eval()
            for tensor in self.layer.state_dict().values():
                if tensor.is_floating_point():
                    tensor.uniform_(0.5, 2.0)
            self.a = torch.randn(N, *shape, dtype=torch.float64)
            self.d = torch.randn_like(self.layer(self.a))
        self.buffers = dict(self.layer.named_buffers())
        self.rule = RULES[type(self.layer)]
        weights = dict(self.layer.named_parameters())
        each = [
            torch.autograd.grad(self.layer(self.a[i : i + 1]), list(weights.values()), self.d[i : i + 1])
            for i in range(N)
        ]
        self.expected = {name: torch.stack(g) for name, g in zip(weights, zip(*each, strict=True), strict=True)}

    def sums(self, power: int, names: Sequence[str] = ("weight", "bias"), add_: Any = None) -> dict[str, Tensor]:
        """The sums that `add_`, the rule's own by default, makes of totals that are 1 everywhere."""
        totals = {name: torch.ones_like(g[0]) for name, g in self.expected.items() if name in names}
        (add_ or self.rule.add_)(totals, self.layer, self.buffers, self.a, self.d, power)
        return totals

    def expected_sums(self, power: int) -> dict[str, Tensor]:
        return {name: 1 + g.abs().pow(power).sum(0) for name, g in self.expected.items()}


@EACH
def test_gradients_are_those_of_each_sample(name: str) -> None:
    seen = Seen(name)
    gradients = seen.rule.gradients(seen.layer, seen.buffers, seen.a, seen.d)
    close({own: gradients[own] for own in seen.expected}, seen.expected)


@EACH
@pytest.mark.parametrize("settings", SETTINGS)
def test_sums_are_those_of_the_gradients_however_they_are_made(
    name: str, settings: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in settings.items():
        monkeypatch.setattr(rules, key, value)
    seen = Seen(name)
    for power in POWERS:
        close(seen.sums(power), seen.expected_sums(power))
        close(seen.sums(power, add_=Rule.add_.__get__(seen.rule)), seen.expected_sums(power))


@EACH
def test_weights_that_are_not_asked_for_are_left_out(name: str) -> None:
    seen = Seen(name)
    for power in POWERS:
        for own, expected in seen.expected_sums(power).items():
            close(seen.sums(power, [own]), {own: expected})


@EACH
@pytest.mark.parametrize("settings", MAPS)
def test_inputs_and_output_gradients_are_left_alone(
    name: str, settings: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in settings.items():
        monkeypatch.setattr(rules, key, value)
    seen = Seen(name)
    before = copy.deepcopy((seen.a, seen.d, seen.buffers))
    seen.rule.gradients(seen.layer, seen.buffers, seen.a, seen.d)
    for power in POWERS:
        seen.sums(power)
    equal((seen.a, seen.d, seen.buffers), before)


@pytest.mark.parametrize("settings", MAPS)
@pytest.mark.parametrize("name", [name for name in LAYERS if "on a" in name or "conv" in name])
def test_inputs_and_output_gradients_need_not_be_contiguous(
    name: str, settings: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in settings.items():
        monkeypatch.setattr(rules, key, value)
    seen = Seen(name)
    seen.a, seen.d = (t.transpose(1, -1).contiguous().transpose(1, -1) for t in (seen.a, seen.d))
    for power in POWERS:
        close(seen.sums(power), seen.expected_sums(power))


def test_every_rule_is_tested() -> None:
    # The last one is the linear layer of attention, for which test_fallback.py has networks.
    assert {type(make()) for make, _ in LAYERS.values()} == set(RULES) - {NonDynamicallyQuantizableLinear}
