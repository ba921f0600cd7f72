"""AdaMerging: coefficients by Adam on entropies, weights by the coefficients, and exact statistics in the end."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call

from dua_lightning.adapt import AdaBN, AdaMerging
from dua_lightning.adapt.base import Adapt, OfExperts
from dua_lightning.errors import InputError
from dua_lightning.merge import Mean, TaskArithmetic
from dua_lightning.nets import Network
from dua_lightning.params import State, body_names, loaded
from dua_lightning.tasks import Batch, Expert, Task
from tests.helpers.nets import BATCH_NORM, DROPOUT, MLP, TASK, TIED, Case, batch_norms, batches, close, equal, untouched

TASKS = [TASK, Task("other", slice(0, 2))]


def given(case: Case) -> tuple[list[Expert], State, list[Batch]]:
    """Experts, their start, and unlabelled images."""
    experts = [case.expert(seed, task) for seed, task in enumerate(TASKS, 1)]
    return experts, case.expert(7).state, batches(2 * case.images(10) + 1, None, 4)


def adapted(case: Case, adapt: AdaMerging, state: State | None = None) -> State:
    experts, start, data = given(case)
    state = Mean()(experts, [], start)[TASK.name] if state is None else state
    return adapt.with_experts(experts, start)(case.build(), state, TASK, data)


def by_hand(case: Case, steps: int, lr: float, initial: float) -> State:
    """The learnt weights of the body: Adam as it is printed, one coefficient for each tensor and expert."""
    experts, start, data = given(case)
    net = case.build()
    net.load_state_dict(experts[0].state)
    net.eval()
    for layer in batch_norms(net):
        layer.train()
    names = [name for name, _ in net.named_parameters() if not name.startswith("head.")]
    coefficients = torch.full((len(names), len(experts)), initial, dtype=torch.float64)
    mean, square = torch.zeros_like(coefficients), torch.zeros_like(coefficients)

    def weights(shares: torch.Tensor) -> State:
        return {
            name: start[name]
            + sum(share * (e.state[name] - start[name]) for share, e in zip(row, experts, strict=True))
            for name, row in zip(names, shares.clamp(0, 1), strict=True)
        }

    for step in range(1, steps + 1):
        x, _ = data[(step - 1) % len(data)]
        shares = coefficients.clone().requires_grad_()
        p = functional_call(net, weights(shares), (x,))[:, TASK.classes].softmax(1)
        (gradient,) = torch.autograd.grad(-(p * p.log()).sum() / len(x), shares)
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        coefficients -= lr * (mean / (1 - 0.9**step)) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
    return weights(coefficients)


@pytest.mark.parametrize("case", [BATCH_NORM, MLP, DROPOUT, TIED], ids=lambda case: case.name)
def test_it_is_adam_on_the_coefficients_then_the_statistics_of_all_images(case: Case) -> None:
    experts, start, data = given(case)
    state = Mean()(experts, [], start)[TASK.name]
    # The steps are large, so that some coefficients leave [0, 1].
    found = adapted(case, AdaMerging(7, lr=0.2, initial=0.4))
    learnt = by_hand(case, 7, 0.2, 0.4)
    # A bias before batch normalisation has no effect: its gradient is rounding, which Adam divides by its size.
    close({name: found[name] for name in learnt}, learnt, 1e-7)
    equal(found["head.weight"], state["head.weight"])
    if batch_norms(case.build()):
        expected = AdaBN()(case.build(), state | {name: found[name] for name in learnt}, TASK, data)
        close({n: t for n, t in found.items() if "running" in n}, {n: t for n, t in expected.items() if "running" in n})


@pytest.mark.parametrize(("initial", "scale"), [(None, 0.5), (0.3, 0.3)])
def test_without_a_step_it_is_task_arithmetic_with_adabn(initial: float | None, scale: float) -> None:
    experts, start, data = given(BATCH_NORM)
    state = TaskArithmetic(scale)(experts, [], start)[TASK.name]
    found = adapted(BATCH_NORM, AdaMerging(0, initial=initial))
    close(found, AdaBN()(BATCH_NORM.build(), state, TASK, data))
    # The weights of the merge are not read.
    other = state | {name: state[name] + 1 for name in body_names(BATCH_NORM.build())}
    close(adapted(BATCH_NORM, AdaMerging(0, initial=initial), other), found)


def test_the_entropy_falls() -> None:
    def entropy(state: State) -> float:
        x = torch.cat([x for x, _ in given(BATCH_NORM)[2]])
        p = loaded(BATCH_NORM.build(), state).eval()(x)[:, TASK.classes].softmax(1).detach()
        return float(-(p * p.log()).sum(1).mean())

    before, after = (entropy(adapted(BATCH_NORM, AdaMerging(steps, lr=0.02))) for steps in (0, 40))
    assert after < before - 0.05


def test_everything_given_is_left_alone() -> None:
    experts, start, data = given(BATCH_NORM)
    net, state = BATCH_NORM.build(), Mean()(experts, [], start)[TASK.name]
    before = copy.deepcopy((experts, start, data))
    with untouched(net, state):
        AdaMerging(3, lr=0.1).with_experts(experts, start)(net, state, TASK, data)
    equal([e.state for e in experts], [e.state for e in before[0]])
    equal((start, [x for x, _ in data]), (before[1], [x for x, _ in before[2]]))


def test_a_tied_weight_has_one_coefficient_and_stays_tied() -> None:
    found = adapted(TIED, AdaMerging(3, lr=0.1))
    equal(loaded(TIED.build(), found).state_dict(), found)
    experts, start, _ = given(TIED)
    assert AdaMerging().with_experts(experts, start).trainable(TIED.build()) == 2 * 3


def test_what_it_cannot_work_on_is_an_input_error() -> None:
    experts, start, data = given(BATCH_NORM)
    assert isinstance(AdaMerging(), Adapt)
    assert isinstance(AdaMerging(), OfExperts)
    with pytest.raises(InputError, match=r"mixes all experts on task middle, .* use with_experts\(\)"):
        AdaMerging()(BATCH_NORM.build(), start, TASK, data)
    for nothing in ([], [(BATCH_NORM.images(0), None)]):
        with pytest.raises(InputError, match="at least one image of task middle"):
            AdaMerging().with_experts(experts, start)(BATCH_NORM.build(), start, TASK, nothing)
    with pytest.raises(InputError, match="weights outside the head, and this Network has none"):
        AdaMerging().check(Network(nn.Flatten(), nn.Linear(3, 6)))
    for wrong in ({"steps": -1}, {"lr": 0.0}, {"initial": 1.5}, {"images_at_once": 0}):
        with pytest.raises(InputError):
            AdaMerging(**wrong)
