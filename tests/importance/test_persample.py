"""The engine: means over samples that know neither batches nor order, and leave the network as it was."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from dua_lightning.errors import InputError
from dua_lightning.importance import FIM, MAS, Importance
from dua_lightning.importance.persample import mean_over_samples
from dua_lightning.importance.rules import RULES, Power
from dua_lightning.nets import Network
from dua_lightning.tasks import Batch, Expert
from tests.helpers.nets import BATCH_NORM, CASES, CLASSES, MLP, TASK, Case, batches, close, equal, labels, untouched
from tests.importance.engine import fallbacks
from tests.reference.power_loop import mean_power

N = 7
MEASURES = [pytest.param(MAS(), id="mas"), pytest.param(FIM(), id="fim")]
POWERS = [pytest.param(1, id="absolute"), pytest.param(2, id="squared")]


def weighted_sum(logits: Tensor, side: Tensor) -> Tensor:
    return (logits * side[..., None]).sin().sum(-1)


def first_pixel(x: Tensor, y: Tensor | None) -> Tensor:
    return x.flatten(1)[:, 0] + y


@pytest.mark.parametrize("importance", MEASURES)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", range(1, N + 1))
def test_batches_do_not_matter(case: Case, importance: Importance, size: int) -> None:
    net, x, y = case.build(), case.images(N), labels(N)
    whole = importance(case.build(), case.expert(), [(x, y)])
    close(importance(net, case.expert(), batches(x, y, size)), whole)


@pytest.mark.parametrize("importance", MEASURES)
@pytest.mark.parametrize("case", CASES)
def test_order_does_not_matter(case: Case, importance: Importance) -> None:
    net, x, y = case.build(), case.images(N), labels(N)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    one = importance(net, case.expert(), batches(x, y, 3))
    close(importance(net, case.expert(), batches(x[order], y[order], 3)), one)


@pytest.mark.parametrize("importance", MEASURES)
@pytest.mark.parametrize("case", CASES)
def test_the_network_and_the_expert_are_left_alone(case: Case, importance: Importance) -> None:
    net, expert = case.build(), case.expert()
    with untouched(net, expert.state):
        importance(net, expert, batches(case.images(N), labels(N), 3))


class BreakingOffError(Exception):
    pass


def broken_data(net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> Iterator[Batch]:
    yield MLP.images(2), labels(2)
    raise BreakingOffError


def broken_network(net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> Iterator[Batch]:
    yield MLP.images(2), labels(2)
    monkeypatch.setattr(nn.Linear, "forward", lambda *_: broken())
    yield MLP.images(2), labels(2)


def broken_rule(net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> Iterator[Batch]:
    yield MLP.images(2), labels(2)
    monkeypatch.setattr(RULES[nn.Linear], "add_", lambda *_: broken(), raising=False)
    yield MLP.images(2), labels(2)


def broken() -> None:
    raise BreakingOffError


@pytest.mark.parametrize("importance", MEASURES)
@pytest.mark.parametrize("data", [broken_data, broken_network, broken_rule])
def test_the_network_is_left_alone_by_what_breaks_off(
    data: Callable[[nn.Module, pytest.MonkeyPatch], Iterator[Batch]],
    importance: Importance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net, expert, x = MLP.build(), MLP.expert(), MLP.images(N)
    with untouched(net, expert.state), pytest.raises(BreakingOffError):
        importance(net, expert, data(net, monkeypatch))
    monkeypatch.undo()
    close(MAS()(net, expert, [(x, None)]), MAS()(MLP.build(), expert, [(x, None)]))


@pytest.mark.parametrize("importance", MEASURES)
@pytest.mark.parametrize("case", CASES)
def test_frozen_weights_are_measured_like_others(case: Case, importance: Importance) -> None:
    net, data = case.build(), [(case.images(N), labels(N))]
    for p in list(net.parameters())[::2]:
        p.requires_grad_(False)
    equal(importance(net, case.expert(), data), importance(case.build(), case.expert(), data))


@pytest.mark.parametrize("importance", [MAS(precision="bf16"), FIM(precision="bf16")], ids=["mas", "fim"])
@pytest.mark.parametrize("case", CASES)
def test_passes_in_bfloat16_are_near_and_their_sums_float32(case: Case, importance: Importance) -> None:
    net, expert = case.build().float(), case.expert()
    expert = Expert(TASK, {name: t.float() if t.is_floating_point() else t for name, t in expert.state.items()})
    data = batches(case.images(N).float(), labels(N), 3)
    with fallbacks() as lines:
        omega, full = importance(net, expert, data), replace(importance, precision="full")(net, expert, data)
    assert not lines
    for name, o in omega.items():
        assert o.dtype == torch.float32
        assert not torch.equal(o, full[name])
        assert float((o - full[name]).abs().sum()) < 0.05 * float(full[name].sum())


@pytest.mark.parametrize("size", [1, 2, N])
def test_images_of_many_shapes_are_one_mean(size: int) -> None:
    def make(_: int) -> nn.Module:
        body = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        return Network(body, nn.Linear(12, CLASSES))

    cases = [Case("a shape", (2, height, 6), make) for height in (5, 8, 5)]
    data = [batch for i, case in enumerate(cases) for batch in batches(case.images(N, seed=i), None, size)]
    net, expert = cases[0].build(), cases[0].expert()
    alone = [mean_power(cases[0].build(), expert, x, weighted_sum, 1, torch.ones(len(x))) for x, _ in data]
    expected = {
        name: sum(len(x) * one[name] for (x, _), one in zip(data, alone, strict=True)) / (3 * N) for name in alone[0]
    }
    with fallbacks() as lines:
        close(mean_over_samples(net, expert, data, weighted_sum, 1, lambda x, _: torch.ones(len(x))), expected)
    assert not lines


@pytest.mark.parametrize("importance", MEASURES)
def test_every_image_twice_is_the_same_mean(importance: Importance) -> None:
    x, y = MLP.images(N), labels(N)
    once = importance(MLP.build(), MLP.expert(), [(x, y)])
    close(importance(MLP.build(), MLP.expert(), [(x, y), (x, y)]), once)


@pytest.mark.parametrize("importance", MEASURES)
def test_data_are_read_once_and_empty_batches_count_for_nothing(importance: Importance) -> None:
    x, y = MLP.images(N), labels(N)
    once = iter([(x[:0], y[:0]), (x[:4], y[:4]), (x[:0], y[:0]), (x[4:], y[4:])])
    close(importance(MLP.build(), MLP.expert(), once), importance(MLP.build(), MLP.expert(), [(x, y)]))


@pytest.mark.parametrize("importance", [*MEASURES, pytest.param(FIM("sampled"), id="sampled FIM")])
@pytest.mark.parametrize("data", [[], [(MLP.images(0), labels(0))]], ids=["no batch", "an empty batch"])
def test_no_image_is_an_input_error(importance: Importance, data: list[Batch]) -> None:
    with pytest.raises(InputError, match="at least one image of task middle"):
        importance(MLP.build(), MLP.expert(), data)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("memory", [1, 2**28])
def test_any_scalar_and_either_power_with_a_side_value_of_each_image(case: Case, power: Power, memory: int) -> None:
    x, y = case.images(N), labels(N)
    data = batches(x, y, 3)
    with fallbacks() as lines:
        actual = mean_over_samples(case.build(), case.expert(), data, weighted_sum, power, first_pixel, memory=memory)
    assert not lines
    close(actual, mean_power(case.build(), case.expert(), x, weighted_sum, power, first_pixel(x, y)))


def test_an_importance_has_the_shapes_of_the_body_and_no_history() -> None:
    net, expert = BATCH_NORM.build(), BATCH_NORM.expert()
    state = {name: tensor.requires_grad_(tensor.is_floating_point()) for name, tensor in expert.state.items()}
    omega = MAS()(net, expert, [(BATCH_NORM.images(2), None)])
    assert set(omega) == {name for name, _ in net.named_parameters() if not name.startswith("head.")}
    for name, o in omega.items():
        assert o.shape == state[name].shape
        assert not o.requires_grad
        assert o.data_ptr() != state[name].data_ptr()


def test_the_weights_and_buffers_are_the_experts_and_not_the_networks() -> None:
    x, y = BATCH_NORM.images(N), labels(N)
    measured = [FIM()(BATCH_NORM.build(seed), BATCH_NORM.expert(1), [(x, y)]) for seed in (0, 1, 2)]
    equal(measured[0], measured[1])
    equal(measured[0], measured[2])


class Spare(nn.Module):
    """A body with a layer that the output does not depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.spare, self.head = nn.Linear(3, 4), nn.Linear(2, 2), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.used(x))


@pytest.mark.parametrize("importance", [MAS(), FIM()], ids=["mas", "fim"])
def test_a_weight_without_effect_has_no_importance(importance: Importance) -> None:
    net = Spare()
    omega = importance(net, Expert(TASK, net.state_dict()), [(torch.randn(5, 3), labels(5))])
    assert not omega["spare.weight"].any()
    assert omega["used.weight"].any()


def test_a_network_that_is_all_head_is_an_input_error() -> None:
    net = nn.Module()
    net.head = nn.Linear(3, CLASSES)
    with pytest.raises(InputError, match="outside its head"):
        MAS()(net, Expert(TASK, net.state_dict()), [(torch.randn(2, 3), None)])
