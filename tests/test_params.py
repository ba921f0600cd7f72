"""The algebra on named tensors, and running a network with a state that is not its own."""

import copy
import math
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from dua_lightning.adapt import AdaBN, Finetune
from dua_lightning.errors import InputError
from dua_lightning.evaluation import accuracy
from dua_lightning.importance import FIM, MAS, Uniform
from dua_lightning.nets import Network
from dua_lightning.params import (
    State,
    add,
    body_names,
    clone,
    eval_mode,
    fitted,
    loaded,
    not_finite,
    pearson,
    task_logits,
)
from dua_lightning.regularise import LwF
from dua_lightning.tasks import Expert, Task
from tests.helpers.nets import (
    BATCH_NORM,
    CASES,
    CLASSES,
    DROPOUT,
    MLP,
    PLAIN,
    TASK,
    TIED,
    Case,
    close,
    equal,
    labels,
    untouched,
)


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


def test_tensors_that_are_not_finite_are_named() -> None:
    bad = {"nan": math.nan, "plus": math.inf, "minus": -math.inf}
    state = {name: torch.tensor([1.0, value, 2.0]) for name, value in bad.items()}
    state |= {"fine": torch.tensor([-3e38, 3e38]), "count": torch.tensor(3), "empty": torch.zeros(0)}
    state |= {f"{kind}": torch.tensor([1.0, math.nan], dtype=kind) for kind in (torch.float16, torch.bfloat16)}
    assert not_finite(state) == ["nan", "plus", "minus", "torch.float16", "torch.bfloat16"]
    assert not_finite({"count": torch.tensor(3)}) == []


DATA = [(BATCH_NORM.images(4), labels(4))]


def teach(net: nn.Module, state: State) -> None:
    lwf = LwF()
    lwf.consolidate(net, TASK, [])
    lwf.teacher = state
    lwf.on_fit_start(None, net)


DOORS: dict[str, Callable[[nn.Module, State], object]] = {
    "accuracy": lambda net, state: accuracy(net, state, TASK, DATA),
    "MAS": lambda net, state: MAS()(net, Expert(TASK, state), DATA),
    "FIM": lambda net, state: FIM()(net, Expert(TASK, state), DATA),
    "a batch's mean": lambda net, state: MAS("batch_mean")(net, Expert(TASK, state), DATA),
    "uniform": lambda net, state: Uniform()(net, Expert(TASK, state), DATA),
    "AdaBN": lambda net, state: AdaBN()(net, state, TASK, DATA),
    "fine-tuning": lambda net, state: Finetune(epochs=1)(net, state, TASK, DATA),
    "LwF": teach,
    "a pass": lambda net, state: task_logits(net, state, DATA[0][0], TASK.classes),
}
WRONG: dict[str, tuple[Callable[[State], State], str]] = {
    "a wrapper's prefix": (
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
        r"lacks body\.0\.weight: it has module\.body\.0\.weight; take module\. off its names",
    ),
    "the body's own names": (
        lambda state: {name.removeprefix("body."): tensor for name, tensor in state.items()},
        r"lacks body\.0\.weight: it has 0\.weight; put body\. before its names",
    ),
    "nothing": (lambda state: {}, r"lacks body\.0\.weight; give a full"),
    "no head": (lambda state: {n: t for n, t in state.items() if "head" not in n}, r"lacks head\.weight; give a full"),
    "no buffer": (lambda state: {n: t for n, t in state.items() if "var" not in n}, r"lacks body\.1\.running_var"),
    "one too many": (lambda state: state | {"more": torch.ones(1)}, "has more, and this Network does not"),
    "another shape": (
        lambda state: state | {"body.0.bias": torch.ones(1).double()},
        r"has body\.0\.bias \(1,\), .*\(3,\)",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("door", DOORS)
def test_a_state_of_another_network_is_refused_by_the_first_name_that_it_lacks(door: str, wrong: str) -> None:
    change, told = WRONG[wrong]
    net, state = BATCH_NORM.build(), change(BATCH_NORM.expert().state)
    DOORS[door](net, BATCH_NORM.expert().state)
    with untouched(net, state), pytest.raises(InputError, match=told) as caught:
        DOORS[door](net, state)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", ["first", "second"])
def test_one_name_of_a_tied_weight_is_enough(missing: str) -> None:
    net, state = TIED.build(), TIED.expert().state
    part = {name: tensor for name, tensor in state.items() if name != f"body.{missing}.weight"}
    x = TIED.images(3)
    equal(task_logits(net, part, x, TASK.classes), task_logits(net, state, x, TASK.classes))
    equal(MAS()(net, Expert(TASK, part), [(x, None)]), MAS()(net, Expert(TASK, state), [(x, None)]))
    equal(loaded(net, part).state_dict(), state)


def test_a_tied_weight_with_two_values_is_refused() -> None:
    net, state = TIED.build(), TIED.expert().state
    equal(fitted(net, clone(state)), fitted(net, state))
    with pytest.raises(InputError, match=r"other numbers for body\.second\.weight than for body\.first\.weight"):
        fitted(net, state | {"body.second.weight": state["body.second.weight"] + 1})


class Unsaved(nn.Module):
    """A network with a buffer that it does not save, and with something saved that is no tensor of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(3, 4), nn.Linear(4, CLASSES)
        self.register_buffer("table", torch.rand(3), persistent=False)
        self.scale = torch.ones(())

    def get_extra_state(self) -> Tensor:
        return self.scale

    def set_extra_state(self, state: Tensor) -> None:
        self.scale = state

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x * self.table).tanh())


def test_what_a_network_does_not_save_is_its_own_and_what_it_saves_besides_is_loaded() -> None:
    net, x = Unsaved(), torch.rand(4, 3)
    state = Unsaved().state_dict() | {"_extra_state": torch.tensor(2.0)}
    assert "table" not in state
    twin = loaded(net, state)
    equal(twin.table, net.table)
    assert float(twin.scale) == 2
    equal(task_logits(net, state, x, slice(0, 2)), twin(x)[:, :2])


def test_a_head_may_have_other_columns_and_a_task_must_have_its_own() -> None:
    large, small = MLP.build(), Network(MLP.build(1).body, nn.Linear(5, 3).double())
    x, state = MLP.images(3), small.state_dict()
    equal(task_logits(large, state, x, slice(0, 2)), small.eval()(x)[:, :2])
    equal(loaded(large, state).state_dict(), state)
    for classes in (slice(2, 4), slice(3, 5)):
        with pytest.raises(InputError, match=rf"gives 3 logits, and the task has the columns {classes.start} to"):
            accuracy(large, state, Task("new", classes), [(x, torch.full((3,), 3))])


@pytest.mark.parametrize(
    ("output", "told"),
    [
        (lambda z: (z, z), "gives a tuple for 3 inputs"),
        (lambda z: {"logits": z}, "gives a dict for 3 inputs"),
        (lambda z: z[:, None], r"gives a tensor \(3, 1, 6\) for 3 inputs"),
        (lambda z: z[0], r"gives a tensor \(6,\) for 3 inputs"),
    ],
    ids=["a pair", "a dictionary", "one position each", "one of them"],
)
def test_an_output_that_is_not_logits_is_refused(output: Callable[[Tensor], object], told: str) -> None:
    net = MLP.build()
    net.register_forward_hook(lambda module, given, z: output(z))
    with pytest.raises(InputError, match=told):
        accuracy(net, MLP.expert().state, TASK, [(MLP.images(3), labels(3))])
    with pytest.raises(InputError, match="must give logits alone"):
        MAS()(net, MLP.expert(), [(MLP.images(3), None)])


class Caching(nn.Linear):
    """A layer that keeps what it has seen: as an attribute, and as a new one in a list."""

    seen: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        self.seen, self.all = y, [y]
        return y


def hooked(layer: nn.Module) -> Network:
    return Network(nn.Sequential(layer, nn.BatchNorm1d(4), nn.ReLU()), nn.Linear(4, CLASSES))


HOOKED = {
    "weight norm": lambda: hooked(weight_norm(nn.Linear(5, 4))),
    "spectral norm": lambda: hooked(spectral_norm(nn.Linear(5, 4))),
    "pruned": lambda: hooked(prune.l1_unstructured(nn.Linear(5, 4), "weight", 0.5)),
    "caching": lambda: hooked(Caching(5, 4)),
    "parametrized": lambda: hooked(parametrizations.weight_norm(nn.Linear(5, 4))),
    "a GRU": lambda: GRU(),
}


class GRU(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.norm, self.head = nn.GRU(5, 4, batch_first=True), nn.BatchNorm1d(4), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.body(x[:, None])[0][:, -1]))


def attributes(net: nn.Module) -> list[dict[str, object]]:
    """The attributes of each module that are no registered weights, by identity."""
    return [{name: id(value) for name, value in vars(module).items() if name != "training"} for module in net.modules()]


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
@pytest.mark.parametrize("passed", [False, True], ids=["fresh", "after a pass"])
@pytest.mark.parametrize("kind", HOOKED)
def test_tensors_that_passes_leave_in_modules_are_neither_copied_nor_changed(kind: str, passed: bool) -> None:
    net, other, x, y = HOOKED[kind](), HOOKED[kind](), torch.randn(6, 5), torch.tensor([2, 3, 4, 2, 3, 4])
    if passed:
        net(x)
    state, data = other.state_dict(), [(x, y)]
    before = attributes(net)
    for psi in (MAS(), FIM(), MAS("batch_mean")):
        psi(net, Expert(TASK, state), data)
    accuracy(net, state, TASK, data)
    with untouched(net, state):
        adapted = AdaBN()(net, state, TASK, data)
    tuned = Finetune(epochs=1)(net, state, TASK, data)
    assert attributes(net) == before
    other.eval()
    # The copy computes with the state's weights, and not with what was left by the network's own.
    equal(loaded(net, state).eval()(x), other(x))
    for changed in (adapted, tuned):
        other.load_state_dict(changed)
        with eval_mode(other):
            close(task_logits(net.eval(), changed, x, slice(None)), other(x), 1e-5)


def test_what_cannot_be_copied_is_told_in_one_line() -> None:
    net = MLP.build()
    net.lock = threading.Lock()
    with pytest.raises(InputError, match=r"Network holds something that cannot be copied \(cannot pickle"):
        loaded(net, MLP.expert().state)
