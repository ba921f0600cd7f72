"""The quadratic penalty in closed form, against autograd of the penalty written out."""

import copy
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dua_lightning import regularise
from dua_lightning.errors import InputError
from dua_lightning.importance import FIM, MAS, Importance, Uniform
from dua_lightning.params import Params
from dua_lightning.regularise import EWC, L2Transfer, QuadraticPenalty
from dua_lightning.tasks import Batch, Expert, Task
from tests.helpers.nets import (
    BATCH_NORM,
    CASES,
    MLP,
    PLAIN,
    TASK,
    TIED,
    Case,
    add_gradients_,
    batches,
    close,
    equal,
    labels,
)
from tests.reference.anchor_loop import penalty
from tests.reference.fim_loop import fim_true
from tests.reference.mas_loop import mas

TASKS = [Task(f"t{t}", slice(2 * t, 2 * t + 2)) for t in range(3)]
Make = Callable[[], QuadraticPenalty]
METHODS = [
    pytest.param(partial(L2Transfer, 0.3), id="L2Transfer"),
    pytest.param(EWC, id="EWC"),
    pytest.param(regularise.MAS, id="MAS"),
]


def learnt(case: Case) -> list[tuple[Expert, Tensor, Tensor]]:
    """Three tasks' experts, images and labels."""
    return [(case.expert(9 + t, task), case.images(5, t), labels(5, task, t)) for t, task in enumerate(TASKS)]


def closed(method: QuadraticPenalty, net: nn.Module, expert: Expert, data: list[Batch]) -> QuadraticPenalty:
    """The regulariser after the task of `expert`, whose weights a copy of the network has."""
    net = copy.deepcopy(net)
    net.load_state_dict(expert.state)
    method.consolidate(net, expert.task, data)
    return method


def after_three_tasks(case: Case, method: QuadraticPenalty) -> QuadraticPenalty:
    for expert, x, y in learnt(case):
        closed(method, case.build(), expert, batches(x, y, 2))
    return method


def omega_loop(case: Case, importance: Importance, expert: Expert, x: Tensor, y: Tensor) -> Params:
    if isinstance(importance, FIM):
        return fim_true(case.build(), expert, x, y)
    omega = mas(case.build(), expert, x)
    return omega if isinstance(importance, MAS) else {name: torch.ones_like(o) for name, o in omega.items()}


def gradients(net: nn.Module) -> Params:
    return {name: p.grad.clone() for name, p in net.named_parameters()}


def backward(net: nn.Module, batch: Batch, extra: Tensor | float = 0.0) -> None:
    """Gradients of a new task's loss plus `extra`."""
    net.zero_grad()
    (nn.functional.cross_entropy(net(batch[0]), batch[1]) + extra).backward()


def zero_gradients(net: nn.Module) -> None:
    for p in net.parameters():
        p.grad = torch.zeros_like(p)


def body(net: nn.Module) -> Params:
    return {name: p for name, p in net.named_parameters() if not name.startswith("head.")}


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("importance", [Uniform(), FIM(), MAS()], ids=["uniform", "fim", "mas"])
@pytest.mark.parametrize("case", [MLP, BATCH_NORM, TIED, PLAIN], ids=lambda case: case.name)
def test_omega_is_the_last_tasks_or_the_sum_of_all_and_the_anchor_always_the_last(
    case: Case, importance: Importance, accumulate: bool
) -> None:
    method = after_three_tasks(case, QuadraticPenalty(importance, 1.0, accumulate))
    omegas = [omega_loop(case, importance, *task) for task in learnt(case)]
    summed = {name: sum(omega[name] for omega in omegas) for name in omegas[0]}
    close(method.omega, summed if accumulate else omegas[-1])
    equal(method.anchor, {name: learnt(case)[-1][0].state[name] for name in summed})


@pytest.mark.parametrize("make", METHODS)
@pytest.mark.parametrize("case", CASES)
def test_the_gradient_is_2_lambda_omega_times_the_distance_and_that_of_the_penalty(case: Case, make: Make) -> None:
    method, net = after_three_tasks(case, make()), case.build()
    batch = case.images(4, 7), labels(4)
    backward(net, batch)
    before, theta = gradients(net), body(net)
    add_gradients_(method, net)
    added = {name: g - before[name] for name, g in gradients(net).items()}

    penalty(theta, method.anchor, method.omega, method.strength).backward()
    by_autograd = {name: g - before[name] for name, g in gradients(net).items()}
    for name, p in net.named_parameters():
        if name not in theta:
            equal(added[name], torch.zeros_like(p))
            continue
        close(added[name], 2 * method.strength * method.omega[name] * (p - method.anchor[name]).detach(), 1e-8)
        close(by_autograd[name], 2 * added[name], 1e-8)
        assert float(added[name].abs().max()) > 0


@pytest.mark.parametrize("make", METHODS)
def test_the_first_task_has_no_penalty_and_no_task_a_loss(make: Make) -> None:
    method, net, x = make(), MLP.build(), MLP.images(4)
    backward(net, (x, labels(4)))
    before = gradients(net)
    add_gradients_(method, net)
    equal(gradients(net), before)
    assert method.loss(net, x, net(x)) is None
    assert after_three_tasks(MLP, method).loss(net, x, net(x)) is None


def test_a_frozen_weight_gets_no_gradient_and_one_without_gradient_the_penalty_alone() -> None:
    method, net = after_three_tasks(MLP, QuadraticPenalty(Uniform(), 1.0)), MLP.build()
    net.body[1].requires_grad_(False)
    add_gradients_(method, net)
    assert net.body[1].weight.grad is None
    theta = net.body[3].weight
    close(theta.grad, (2 * method.omega["body.3.weight"] * (theta - method.anchor["body.3.weight"])).detach())
    assert net.head.weight.grad is None


def test_of_several_optimizers_each_moves_its_own_weights() -> None:
    method, net = closed(QuadraticPenalty(Uniform(), 1.0), MLP.build(), MLP.expert(), []), MLP.build()
    first, second = (torch.optim.SGD(net.body[i].parameters(), lr=1.0) for i in (1, 3))
    trainer: Any = SimpleNamespace(optimizers=[first, second])
    method.on_fit_start(trainer, net)
    method.on_before_optimizer_step(trainer, net, first)
    assert net.body[1].weight.grad is not None
    assert net.body[3].weight.grad is None


@pytest.mark.parametrize("make", METHODS)
def test_consolidating_changes_no_expert_and_no_copy_of_the_regulariser(make: Make) -> None:
    (one, x, y), (two, x2, y2), _ = learnt(BATCH_NORM)
    method = closed(make(), BATCH_NORM.build(), one, [(x, y)])
    first, before = copy.deepcopy(method), copy.deepcopy((method.omega, method.anchor, one.state, two.state))
    closed(method, BATCH_NORM.build(), two, [(x2, y2)])
    net = BATCH_NORM.build()
    backward(net, (x2, y2))
    add_gradients_(first, net)
    equal((first.omega, first.anchor, one.state, two.state), before)


def test_the_anchor_stays_where_it_was_when_the_network_moves_on() -> None:
    net = MLP.build()
    method = QuadraticPenalty(Uniform(), 1.0)
    method.consolidate(net, TASK, [])
    for p in net.parameters():
        p.data += 1
    zero_gradients(net)
    add_gradients_(method, net)
    assert all((p.grad == 2).all() for name, p in net.named_parameters() if name in method.anchor)


def test_a_penalty_that_starts_at_the_third_task_leaves_the_second_alone() -> None:
    net, method = MLP.build(), L2Transfer(1.0, first_task=3)
    for task, penalised in ((2, False), (3, True)):
        closed(method, net, MLP.expert(), [])
        zero_gradients(net)
        add_gradients_(method, net)
        assert any(bool(p.grad.any()) for p in net.parameters()) == penalised, task


def test_a_pulled_head_feels_its_distance_from_where_it_started() -> None:
    net, expert = MLP.build(), MLP.expert()
    method = closed(L2Transfer(0.3, pull_head=True), net, expert, [])
    net.load_state_dict(expert.state)
    moved = {"head.weight": 0.5, "head.bias": -0.25}
    for name, p in net.named_parameters():
        p.data += moved.get(name, 0.0)
    zero_gradients(net)
    add_gradients_(method, net)
    for name, p in net.named_parameters():
        close(p.grad, torch.full_like(p, 2 * 0.3 * moved.get(name, 0.0)))


def test_a_limit_cuts_the_sum_of_the_importances_and_nothing_below_it() -> None:
    net, x, y = MLP.build(), MLP.images(6), labels(6)
    free, cut = EWC(400.0), EWC(400.0, limit=0.5)
    for seed in (1, 2, 3):
        for method in (free, cut):
            closed(method, net, MLP.expert(seed), [(x, y)])
    stiff = {name: 2 * 400 * o for name, o in free.omega.items()}
    assert any((s > 0.5).any() for s in stiff.values())
    assert any((s < 0.5).any() for s in stiff.values())
    for name in stiff:
        close(2 * 400 * cut.omega[name], stiff[name].clamp(max=0.5))


def test_a_stiff_penalty_diverges_and_with_the_limit_of_one_step_it_does_not() -> None:
    for limit, stays in ((None, False), (1 / 0.01, True)):
        net = MLP.build()
        method = closed(QuadraticPenalty(Uniform(), 1e4, limit=limit), net, MLP.expert(), [])
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
        for _ in range(300):
            zero_gradients(net)
            add_gradients_(method, net)
            optimizer.step()
        far = [(p.detach() - method.anchor[n]).abs().max() for n, p in net.named_parameters() if n in method.anchor]
        assert (float(max(far)) < 1e-3) == stays


@pytest.mark.parametrize(
    ("setting", "value"),
    [("strength", -1.0), ("strength", float("nan")), ("first_task", 0), ("limit", 0.0), ("limit", float("nan"))],
)
def test_a_setting_that_cannot_be_is_an_input_error(setting: str, value: float) -> None:
    settings: dict[str, Any] = {"strength": 1.0, setting: value}
    with pytest.raises(InputError, match=f"got {value}"):
        QuadraticPenalty(Uniform(), **settings)


def test_the_defaults_are_those_of_the_authors_scripts() -> None:
    assert (EWC().strength, regularise.MAS().strength, L2Transfer().strength) == (400.0, 1.0, 1e-3)
    assert (EWC().accumulate, regularise.MAS().accumulate, L2Transfer().accumulate) == (True, True, False)
