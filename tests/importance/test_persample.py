"""The engine: means over samples that know neither batches nor order, in bounded memory."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from dua_lightning.errors import InputError
from dua_lightning.importance import MAS, Fisher, Importance
from dua_lightning.importance.persample import mean_over_samples
from dua_lightning.tasks import Batch, Expert
from tests.nets import BATCH_NORM, CASES, CLASSES, MLP, TASK, Case, batches, close, equal, labels, untouched

N = 7
MEASURES = [pytest.param(MAS(), id="mas"), pytest.param(Fisher(), id="fisher")]
ONE_GRADIENT = 8 * (6 * 5 + 5 + 5 * 5 + 5)
"""Bytes of one gradient of the body of `MLP`."""


def weighted_sum(logits: Tensor, side: Tensor) -> Tensor:
    return (logits * side).sin().sum()


def first_pixel(x: Tensor, y: Tensor | None) -> Tensor:
    return x.flatten(1)[:, 0] + y


@pytest.mark.parametrize("importance", MEASURES)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", range(1, N + 1))
def test_batches_do_not_matter(case: Case, importance: Importance, size: int) -> None:
    net, x, y = case.build(), case.images(N), labels(N)
    whole = importance(net, case.expert(), [(x, y)])
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


def test_the_network_is_left_alone_by_data_that_break_off() -> None:
    def broken() -> Iterator[Batch]:
        yield MLP.images(2), None
        raise OSError

    net = MLP.build()
    with untouched(net), pytest.raises(OSError, match=r"^$"):
        MAS()(net, MLP.expert(), broken())


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


@pytest.mark.parametrize("importance", [*MEASURES, pytest.param(Fisher("sampled"), id="sampled fisher")])
@pytest.mark.parametrize("data", [[], [(MLP.images(0), labels(0))]], ids=["no batch", "an empty batch"])
def test_no_image_is_an_input_error(importance: Importance, data: list[Batch]) -> None:
    with pytest.raises(InputError, match="at least one image of task middle"):
        importance(MLP.build(), MLP.expert(), data)


@pytest.mark.parametrize("case", CASES)
def test_any_scalar_and_reduction_with_a_side_value_of_each_image(case: Case) -> None:
    net, expert, x, y = case.build(), case.expert(), case.images(N), labels(N)
    actual = mean_over_samples(net, expert, batches(x, y, 3), weighted_sum, lambda g: g.exp_(), first_pixel)

    net.load_state_dict(expert.state)
    net.eval()
    expected = {name: torch.zeros_like(actual[name]) for name in actual}
    for xi, yi in zip(x, y, strict=True):
        net.zero_grad()
        weighted_sum(net(xi[None])[0, TASK.classes], xi.flatten()[0] + yi).backward()
        for name, p in net.named_parameters(remove_duplicate=False):
            if name in expected:
                expected[name] += p.grad.exp() / N
    close(actual, expected)


@pytest.mark.parametrize("most", [1, 2, 3, 5, 100])
def test_a_chunk_holds_as_many_gradients_as_fit_and_at_least_one(most: int) -> None:
    held = []

    def reduce_(g: Tensor) -> Tensor:
        held.append(len(g))
        return g.abs_()

    def measure(chunk_bytes: int) -> dict[str, Tensor]:
        held.clear()
        data = batches(MLP.images(N), labels(N), 5)
        return mean_over_samples(MLP.build(), MLP.expert(), data, weighted_sum, reduce_, first_pixel, chunk_bytes)

    whole = measure(2**20)
    close(measure(ONE_GRADIENT * most), whole)
    assert max(held) == min(most, 5)
    close(measure(ONE_GRADIENT * most + ONE_GRADIENT - 1), whole)
    assert max(held) == min(most, 5)
    close(measure(1), whole)
    assert max(held) == 1


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
    measured = [Fisher()(BATCH_NORM.build(seed), BATCH_NORM.expert(1), [(x, y)]) for seed in (0, 1, 2)]
    equal(measured[0], measured[1])
    equal(measured[0], measured[2])


class Spare(nn.Module):
    """A body with a layer that the output does not depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.spare, self.head = nn.Linear(3, 4), nn.Linear(2, 2), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.used(x))


@pytest.mark.parametrize("importance", [MAS(), Fisher()], ids=["mas", "fisher"])
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
