"""Random networks that use layers and weights more than once: every psi is its slow loop, and merges keep ties."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

from dua_lightning.errors import InputError
from dua_lightning.evaluation import accuracy
from dua_lightning.importance import FIM, MAS, Uniform, functional, persample
from dua_lightning.merge import Mean, Mode
from dua_lightning.params import Params, body_names, loaded
from dua_lightning.tasks import Task
from tests.helpers.nets import CLASSES, TASK, Case, batches, close, equal, labels, law, untouched
from tests.reference.batchmean_loop import batch_mean
from tests.reference.power_loop import mean_power

WIDTH = 4
COLUMNS = TASK.classes
KINDS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(WIDTH, WIDTH),
    "bilinear": lambda: nn.Bilinear(WIDTH, WIDTH, WIDTH),
    "layer norm": lambda: nn.LayerNorm(WIDTH),
    "batch norm": lambda: nn.BatchNorm1d(WIDTH),
}


@dataclass(frozen=True)
class Use:
    """A step of a forward pass: a layer is called, or its weight is used without it, or that weight's transpose."""

    layer: int
    how: str


@dataclass(frozen=True)
class Plan:
    """The layers of a network, which of them share their weights with the first of their kind, and their uses."""

    kinds: tuple[str, ...]
    tied: tuple[bool, ...]
    twice: bool
    uses: tuple[Use, ...]


class Shared(nn.Module):
    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.layers = nn.ModuleList(KINDS[kind]() for kind in plan.kinds)
        for kind, tied, layer in zip(plan.kinds, plan.tied, self.layers, strict=True):
            first = self.layers[plan.kinds.index(kind)]
            if tied and layer is not first:
                layer.weight = first.weight
        # One layer under two names.
        self.again = self.layers[0] if plan.twice else nn.Identity()
        self.uses = plan.uses

    def forward(self, x: Tensor) -> Tensor:
        for use in self.uses:
            layer = self.layers[use.layer]
            if use.how == "layer" or layer.weight.dim() != 2:
                y = layer(x, x) if isinstance(layer, nn.Bilinear) else layer(x)
            else:
                y = linear(x, layer.weight if use.how == "weight" else layer.weight.T)
            x = (x + y).tanh()
        return self.again(x) if isinstance(self.again, nn.Linear) else x


@st.composite
def plans(draw: st.DrawFn) -> Case:
    kinds = tuple(draw(st.lists(st.sampled_from(list(KINDS)), min_size=1, max_size=3)))
    tied = tuple(draw(st.lists(st.booleans(), min_size=len(kinds), max_size=len(kinds))))
    how = st.sampled_from(["layer", "layer", "layer", "weight", "transpose"])
    one = st.builds(Use, st.integers(0, len(kinds) - 1), how)
    plan = Plan(kinds, tied, draw(st.booleans()), tuple(draw(st.lists(one, min_size=2, max_size=5))))
    return Case("shared", (WIDTH,), lambda _: Headed(Shared(plan)))


class Headed(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body, self.head = body, nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class TiedHead(nn.Module):
    """A head whose weight is also the first layer's, as in language models."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.body, self.head = nn.Linear(WIDTH, CLASSES), nn.Linear(CLASSES, WIDTH), nn.Linear(4, CLASSES)
        self.head.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.first(x).tanh()).tanh())


def no_vmap(*_: object, **__: object) -> Callable[..., Params]:
    def refuse(*_: object) -> Params:
        raise RuntimeError("no rule")

    return refuse


@pytest.fixture(scope="module", params=["rules", "torch.func", "one at a time"], autouse=True)
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """The engine that the networks are served by, if they fit it."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param != "rules":
            patch.setattr(persample, "RULES", {})
        if request.param == "one at a time":
            patch.setattr(functional, "vmap", no_vmap)
        yield request.param


def norm(logits: Tensor, _: Tensor) -> Tensor:
    return (logits**2).sum()


def likelihood(logits: Tensor, column: Tensor) -> Tensor:
    return logits.softmax(0)[column].log()


def loops(case: Case, n: int) -> dict[str, Params]:
    """Every psi by its slow loop."""
    x, y, expert = case.images(n), labels(n), case.expert()

    def loop_over_batches(objective: Callable[[Tensor, Tensor], Tensor], power: int) -> Params:
        plain = case.build()
        plain.load_state_dict(expert.state)
        names = body_names(plain)
        found = batch_mean(plain.eval(), x, objective, power)
        return {name: found[first] for name, first in names.items()}

    return {
        "MAS": mean_power(case.build(), expert, x, norm, 1),
        "FIM": mean_power(case.build(), expert, x, likelihood, 2, y - COLUMNS.start),
        "batch-mean MAS": loop_over_batches(lambda z, _: z[:, COLUMNS].square().sum(1).mean(), 1),
        "batch-mean FIM": loop_over_batches(lambda z, i: cross_entropy(z[:, COLUMNS], y[i] - COLUMNS.start), 2),
        "uniform": {name: torch.ones_like(expert.state[name]) for name in body_names(case.build())},
    }


PSI = {
    "MAS": MAS(),
    "FIM": FIM(),
    "batch-mean MAS": MAS("batch_mean"),
    "batch-mean FIM": FIM(estimator="batch_mean"),
    "uniform": Uniform(),
}


@settings(law, max_examples=15)
@given(plans(), st.sampled_from([1, 3, 22]), st.integers(2, 9))
def test_every_importance_is_its_slow_loop(case: Case, n: int, size: int) -> None:
    expected = loops(case, n)
    for name, psi in PSI.items():
        net, expert = case.build(), case.expert()
        with untouched(net, expert.state):
            omega = psi(net, expert, batches(case.images(n), labels(n), size))
        assert omega.keys() == expected[name].keys()
        largest = max(float(o.abs().max()) for o in expected[name].values())
        for weight, o in omega.items():
            torch.testing.assert_close(o, expected[name][weight], rtol=1e-9, atol=1e-12 * (1 + largest))


@settings(law, max_examples=10)
@given(plans(), st.sampled_from(list(PSI)))
def test_a_merge_keeps_ties_and_its_states_are_states_of_the_network(case: Case, name: str) -> None:
    tasks = [Task("a", slice(0, 3)), Task("b", slice(3, 6))]
    experts = [case.expert(seed, task) for seed, task in enumerate(tasks, 1)]
    data = [[(case.images(4, seed), labels(4, task))] for seed, task in enumerate(tasks)]
    priors = [PSI[name](case.build(), expert, d) for expert, d in zip(experts, data, strict=True)]
    for model in (Mode()(experts, priors, {}), Mean()(experts, [], {})):
        for task, d in zip(tasks, data, strict=True):
            net = case.build()
            equal(loaded(net, model[task.name]).state_dict(), dict(model[task.name]))
            net.load_state_dict(model[task.name])
            right = net.eval()(d[0][0])[:, task.classes].argmax(1) + task.classes.start == d[0][1]
            assert accuracy(case.build(), model[task.name], task, d) == 100 * float(right.double().mean())


def test_a_weight_of_body_and_head_belongs_to_tasks_and_is_left_to_them_or_refused() -> None:
    case = Case("a tied head", (WIDTH,), lambda _: TiedHead())
    tasks = [Task("a", slice(0, 3)), Task("b", slice(3, 6))]
    experts = [case.expert(seed, task) for seed, task in enumerate(tasks, 1)]
    x = case.images(5)
    priors = [MAS()(case.build(), expert, [(x, None)]) for expert in experts]
    assert list(priors[0]) == ["first.bias", "body.weight", "body.bias"]
    close(priors[0], {n: o for n, o in mean_power(case.build(), experts[0], x, norm, 1).items() if n in priors[0]})
    for state, expert in zip(Mode()(experts, priors, {}).values(), experts, strict=True):
        equal(loaded(case.build(), state).state_dict()["head.weight"], expert.state["head.weight"])
        equal(state["first.weight"], expert.state["first.weight"])
    # The names alone do not say that the two are one.
    with pytest.raises(InputError, match=r"other numbers for head\.weight than for first\.weight, .* ties the two"):
        accuracy(case.build(), Mean()(experts, [], {})["a"], tasks[0], [(x, labels(5, tasks[0]))])


def test_a_copy_keeps_its_ties() -> None:
    case = Case("a tied head", (WIDTH,), lambda _: TiedHead())
    net = loaded(case.build(), case.expert().state)
    assert net.head.weight is net.first.weight
    equal(net.state_dict(), copy.deepcopy(case.expert().state))
