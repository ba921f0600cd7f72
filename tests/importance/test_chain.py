"""Perceptrons by formulas, against one backward pass for each image."""

from collections.abc import Callable
from types import MethodType

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dua_lightning.importance import MAS, Fisher
from dua_lightning.importance.persample import mean_over_samples
from dua_lightning.importance.rules import RULES, Power
from dua_lightning.nets import Network
from dua_lightning.nets.chain import chain_of
from dua_lightning.tasks import Expert
from tests.helpers.nets import MLP, TASK, Case, batches, close, labels, law, untouched
from tests.importance.drawn import CLASSES
from tests.importance.engine import fallbacks
from tests.reference.fisher_loop import fisher_true
from tests.reference.mas_loop import mas
from tests.reference.power_loop import mean_power

IDLE = (nn.Dropout, nn.Identity, nn.Flatten)


@st.composite
def perceptrons(draw: st.DrawFn) -> Case:
    """Linear layers with rectifiers, and what does nothing, here and there; with a head, or all body."""
    shape = draw(st.sampled_from([(3,), (2, 3)]))
    widths = [6 if len(shape) > 1 else 3, *draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))]
    biases = [draw(st.booleans()) for _ in widths]
    between = [draw(st.lists(st.sampled_from([nn.ReLU, *IDLE]), max_size=2)) for _ in widths]
    headed, all_relu = draw(st.booleans()), draw(st.booleans())

    def make(_: int) -> nn.Module:
        layers: list[nn.Module] = [nn.Flatten()] if len(shape) > 1 else []
        layers += [kind() for kind in between[0]]
        for width, following, bias, kinds in zip(widths, widths[1:], biases, between[1:], strict=False):
            layers += [nn.Linear(width, following, bias), *([nn.ReLU()] if all_relu else []), *(k() for k in kinds)]
        last = nn.Linear(widths[-1], CLASSES, biases[-1])
        return Network(nn.Sequential(*layers), last) if headed else nn.Sequential(nn.Sequential(*layers), last)

    return Case("perceptron", shape, make)


@law
@given(perceptrons(), st.integers(1, 5), st.integers(1, 3))
def test_it_is_the_loop_over_images(case: Case, n: int, size: int) -> None:
    net, expert, x, y = case.build(), case.expert(), case.images(n), labels(n)
    assert chain_of(net, x) is not None
    with fallbacks() as lines, untouched(net, expert.state):
        before = x.clone()
        omegas = [importance(net, expert, batches(x, y, size)) for importance in (MAS(), Fisher())]
        assert torch.equal(x, before)
    assert not lines
    close(omegas[0], mas(net, expert, x))
    close(omegas[1], fisher_true(net, expert, x, y))


@pytest.mark.parametrize("power", [1, 2], ids=["absolute", "squared"])
def test_a_scalar_without_a_formula_is_differentiated(power: Power) -> None:
    def waves(logits: Tensor, _: Tensor) -> Tensor:
        return logits.sin().sum(-1)

    net, expert, x = MLP.build(), MLP.expert(), MLP.images(4)
    close(mean_over_samples(net, expert, [(x, None)], waves, power), mean_power(net, expert, x, waves, power))


def test_what_does_not_depend_on_the_logits_has_no_importance() -> None:
    net, expert, x = MLP.build(), MLP.expert(), MLP.images(4)
    for constant in (torch.zeros_like, lambda side: side + torch.zeros((), requires_grad=True)):
        omega = mean_over_samples(net, expert, [(x, None)], lambda _, side, of=constant: of(side), 1)
        assert not any(o.any() for o in omega.values())


class Twice(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * nn.Linear.forward(self, x)


def hooked(net: nn.Module, when: str) -> nn.Module:
    getattr(net, when)(lambda *_: None)
    return net


def tied() -> nn.Module:
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    net[2].weight = net[0].weight
    return net


def patched() -> nn.Module:
    net = plain()
    net[0].forward = MethodType(Twice.forward, net[0])
    return net


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))


OTHERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "another activation": (lambda: nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3)), (2, 3)),
    "a layer of one's own": (lambda: nn.Sequential(Twice(3, 3)), (2, 3)),
    "no layer": (nn.Sequential, (2, 4, 3)),
    "nothing after the rectifier": (lambda: nn.Sequential(nn.Linear(3, 3), nn.ReLU()), (2, 3)),
    "rows of rows": (plain, (2, 4, 3)),
    "part of the dimensions": (lambda: nn.Sequential(nn.Flatten(2), nn.Linear(6, 3)), (2, 4, 2, 3)),
    "a hook": (lambda: hooked(plain(), "register_forward_hook"), (2, 3)),
    "a hook before": (lambda: hooked(plain(), "register_forward_pre_hook"), (2, 3)),
    "a method of its own": (patched, (2, 3)),
    "a layer twice": (lambda: nn.Sequential(*[nn.Linear(3, 3)] * 2), (2, 3)),
    "a tied weight": (tied, (2, 3)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_networks_are_none(name: str) -> None:
    make, shape = OTHERS[name]
    assert chain_of(plain(), torch.zeros(2, 3)) is not None
    assert chain_of(make(), torch.zeros(shape)) is None


def test_without_a_rule_for_linear_layers_torch_func_serves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(RULES, nn.Linear)
    net, expert, x = MLP.build(), MLP.expert(), MLP.images(4)
    with fallbacks() as lines:
        omega = MAS()(net, expert, [(x, None)])
    assert len(lines) == 1
    close(omega, mas(net, expert, x))


def test_a_chain_by_its_modules_that_computes_something_else_is_noticed() -> None:
    net, expert, x = MLP.build(), MLP.expert(), MLP.images(4)
    net.body[1].forward = MethodType(Twice.forward, net.body[1])
    with fallbacks() as lines:
        omega = MAS()(net, expert, [(x, None)])
    assert len(lines) == 1
    close(omega, mas(net, expert, x))


def test_an_outer_autocast_changes_nothing() -> None:
    net, x = MLP.build().float(), MLP.images(4).float()
    expert = Expert(TASK, net.state_dict())
    expected = MAS()(net, expert, [(x, None)])
    with torch.autocast("cpu", torch.bfloat16):
        close(MAS()(net, expert, [(x, None)]), expected, 1e-5)
