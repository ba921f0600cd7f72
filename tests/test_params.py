"""The algebra on named tensors, and running a network with a state that is not its own."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dua_lightning.params import add, body_names, clone, eval_mode, pearson, task_logits
from tests.helpers.nets import BATCH_NORM, CASES, DROPOUT, MLP, PLAIN, TASK, TIED, Case, close, equal, untouched


def test_the_body_is_everything_but_the_head() -> None:
    parameters = [name for name, _ in BATCH_NORM.build().named_parameters()]
    body = {name: name for name in parameters if not name.startswith("head.")}
    assert body_names(BATCH_NORM.build()) == body
    assert len(body) == len(parameters) - 2


def test_a_network_without_a_head_is_all_body() -> None:
    assert list(body_names(PLAIN.build())) == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_a_tied_weight_is_named_once_for_each_use() -> None:
    names = body_names(TIED.build())
    assert names["body.second.weight"] == names["body.first.weight"] == "body.first.weight"
    assert names["body.second.bias"] == "body.second.bias"
    assert len(names) == 4


class Switched(nn.Module):
    """A network whose head is one or the other of its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)]).double()
        self.last = 1

    @property
    def head(self) -> nn.Module:
        return self.layers[self.last]

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers[self.last](self.layers[1 - self.last](x.flatten(1)))
        return y


CHANGES: dict[str, Callable[[Any], None]] = {
    "a layer": lambda net: setattr(net.body, "3", nn.Linear(5, 5).double()),
    "a weight": lambda net: setattr(net.body[1], "weight", nn.Parameter(torch.rand(5, 6, dtype=torch.float64))),
    "a tied weight": lambda net: setattr(net.body[3], "bias", net.body[1].bias),
    "a weight less": lambda net: setattr(net.body[1], "bias", None),
    "the head": lambda net: setattr(net, "head", nn.Linear(5, 9).double()),
    "which layer is the head": lambda net: setattr(net, "last", 0),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_network_that_is_changed_after_its_first_use_is_seen_as_it_is(what: str) -> None:
    net = Switched() if "which" in what else MLP.build()
    x = MLP.images(3)
    task_logits(net, net.state_dict(), x, TASK.classes)
    before = body_names(net)
    CHANGES[what](net)
    # A copy is a network that was never seen.
    twin = copy.deepcopy(net)
    for p in twin.parameters():
        nn.init.normal_(p)
    assert body_names(net) == body_names(twin)
    assert (before != body_names(net)) == (what in ("a tied weight", "a weight less", "which layer is the head"))
    with torch.no_grad():
        equal(task_logits(net, twin.state_dict(), x, slice(None)), twin(x))


def test_a_clone_shares_nothing() -> None:
    state = dict(MLP.build().named_parameters())
    copied = clone(state)
    equal(copied, {name: p.detach() for name, p in state.items()})
    for name, tensor in copied.items():
        assert not tensor.requires_grad
        assert tensor.data_ptr() != state[name].data_ptr()


def test_add_is_entry_by_entry_and_mutates_neither() -> None:
    a, b = (
        {"w": torch.tensor([1.0, 2.0]), "b": torch.tensor(3.0)},
        {"b": torch.tensor(4.0), "w": torch.tensor([5.0, 6.0])},
    )
    equal(add(a, b), {"w": torch.tensor([6.0, 8.0]), "b": torch.tensor(7.0)})
    equal((a["w"], b["w"]), (torch.tensor([1.0, 2.0]), torch.tensor([5.0, 6.0])))


def test_eval_mode_is_on_inside_and_each_modules_own_mode_comes_back() -> None:
    net = DROPOUT.build()
    with untouched(net), eval_mode(net):
        assert not any(module.training for module in net.modules())
        assert net(DROPOUT.images(2)).requires_grad


def test_eval_mode_ends_with_an_error_too() -> None:
    net = BATCH_NORM.build()
    with untouched(net), pytest.raises(KeyError), eval_mode(net):
        raise KeyError


@pytest.mark.parametrize("case", CASES)
def test_task_logits_are_the_columns_of_a_network_with_that_state(case: Case) -> None:
    net, state, x = case.build().eval(), case.expert().state, case.images(3)
    loaded = copy.deepcopy(net)
    loaded.load_state_dict(state)
    with torch.no_grad():
        close(task_logits(net, state, x, TASK.classes), loaded(x)[:, 2:5])
        assert not torch.allclose(net(x), loaded(x))


@pytest.mark.parametrize("case", CASES)
def test_task_logits_leave_the_network_and_the_state_alone(case: Case) -> None:
    net, state = case.build(), case.expert().state
    with untouched(net, state), eval_mode(net):
        task_logits(net, state, case.images(3), TASK.classes)


def test_task_logits_give_the_network_its_own_tensors_back_after_an_error() -> None:
    net, state = MLP.build(), MLP.expert().state
    with untouched(net, state), pytest.raises(RuntimeError, match="shapes"):
        task_logits(net, state, torch.zeros(2, 1, dtype=torch.float64), TASK.classes)


def test_pearson_is_that_of_all_entries_together() -> None:
    a = {"v": torch.tensor([1.0, 2.0]), "w": torch.tensor([[4.0]])}
    b = {"v": torch.tensor([2.0, 1.0]), "w": torch.tensor([[6.0]])}
    x, y = [1, 2, 4], [2, 1, 6]
    mx, my = sum(x) / 3, sum(y) / 3
    covariance = sum((p - mx) * (q - my) for p, q in zip(x, y, strict=True))
    scale = (sum((p - mx) ** 2 for p in x) * sum((q - my) ** 2 for q in y)) ** 0.5
    assert pearson(a, b) == pytest.approx(covariance / scale)
    assert pearson(a, {name: 3 * t + 1 for name, t in a.items()}) == pytest.approx(1)
