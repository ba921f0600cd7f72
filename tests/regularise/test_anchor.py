"""The quadratic penalty in closed form, against autograd of the penalty written out."""

import copy

import pytest
import torch
from torch import Tensor, nn

from dua_lightning.errors import InputError
from dua_lightning.importance import FIM, MAS, Importance, Uniform
from dua_lightning.params import Params
from dua_lightning.regularise import Anchor
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
METHODS = [
    pytest.param(Anchor(Uniform(), 0.3, accumulate=False), id="l2"),
    pytest.param(Anchor(FIM(), 400.0), id="ewc"),
    pytest.param(Anchor(MAS(), 1.0), id="mas"),
]


def learnt(case: Case) -> list[tuple[Expert, Tensor, Tensor]]:
    """Three tasks' experts, images and labels."""
    return [(case.expert(9 + t, task), case.images(5, t), labels(5, task, t)) for t, task in enumerate(TASKS)]


def after_three_tasks(case: Case, method: Anchor) -> Anchor:
    net = case.build()
    for expert, x, y in learnt(case):
        net.load_state_dict(expert.state)
        method = method.consolidate(net, expert, batches(x, y, 2))
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


def body(net: nn.Module) -> Params:
    return {name: p for name, p in net.named_parameters() if not name.startswith("head.")}


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("importance", [Uniform(), FIM(), MAS()], ids=["uniform", "fim", "mas"])
@pytest.mark.parametrize("case", [MLP, BATCH_NORM, TIED, PLAIN], ids=lambda case: case.name)
def test_omega_is_the_last_tasks_or_the_sum_of_all_and_the_anchor_always_the_last(
    case: Case, importance: Importance, accumulate: bool
) -> None:
    method = after_three_tasks(case, Anchor(importance, 1.0, accumulate))
    omegas = [omega_loop(case, importance, *task) for task in learnt(case)]
    summed = {name: sum(omega[name] for omega in omegas) for name in omegas[0]}
    close(method.omega, summed if accumulate else omegas[-1])
    equal(method.anchor, {name: learnt(case)[-1][0].state[name] for name in summed})


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", CASES)
def test_the_gradient_is_2_lambda_omega_times_the_distance_and_that_of_the_penalty(case: Case, method: Anchor) -> None:
    method, net = after_three_tasks(case, method), case.build()
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


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", [MLP, BATCH_NORM, TIED], ids=lambda case: case.name)
def test_steps_equal_those_of_sgd_with_the_penalty_in_the_loss(case: Case, method: Anchor) -> None:
    method = after_three_tasks(case, method)
    closed, by_autograd = case.build(), case.build()
    optimizers = [torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9) for net in (closed, by_autograd)]
    for step in range(3):
        batch = case.images(4, step), labels(4, seed=step)
        backward(closed, batch)
        add_gradients_(method, closed)
        backward(by_autograd, batch, penalty(body(by_autograd), method.anchor, method.omega, method.strength))
        for optimizer in optimizers:
            optimizer.step()
    close(closed.state_dict(), by_autograd.state_dict(), 1e-8)


@pytest.mark.parametrize("method", METHODS)
def test_the_first_task_has_no_penalty(method: Anchor) -> None:
    net, x = MLP.build(), MLP.images(4)
    backward(net, (x, labels(4)))
    before = gradients(net)
    add_gradients_(method, net)
    equal(gradients(net), before)
    assert method.loss(net, x, net(x)) is None


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_added_to_the_loss_as_well_as_to_the_gradient(method: Anchor) -> None:
    net, x = MLP.build(), MLP.images(4)
    assert after_three_tasks(MLP, method).loss(net, x, net(x)) is None


def test_weights_without_a_gradient_get_none() -> None:
    method, net = after_three_tasks(MLP, Anchor(Uniform(), 1.0)), MLP.build()
    net.body[1].requires_grad_(False)
    backward(net, (MLP.images(4), labels(4)))
    before = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    add_gradients_(method, net)
    assert net.body[1].weight.grad is None
    assert not torch.equal(net.body[3].weight.grad, before["body.3.weight"])


@pytest.mark.parametrize("method", METHODS)
def test_consolidating_changes_neither_the_regulariser_nor_the_expert(method: Anchor) -> None:
    (one, x, y), (two, x2, y2), _ = learnt(BATCH_NORM)
    net = BATCH_NORM.build()
    first = method.consolidate(net, one, [(x, y)])
    before = copy.deepcopy((first.omega, first.anchor, one.state, two.state))
    first.consolidate(net, two, [(x2, y2)])
    backward(net, (x2, y2))
    add_gradients_(first, net)
    equal((first.omega, first.anchor, one.state, two.state), before)
    assert (method.omega, method.anchor) == ({}, {})


@pytest.mark.parametrize("strength", [-1.0, float("nan")])
def test_a_strength_below_zero_is_an_input_error(strength: float) -> None:
    with pytest.raises(InputError, match="at least 0"):
        Anchor(Uniform(), strength)


def test_a_frozen_body_is_left_alone() -> None:
    net = MLP.build()
    method = Anchor(Uniform(), 1.0).consolidate(net, Expert(TASK, net.state_dict()), [])
    net.requires_grad_(False)
    add_gradients_(method, net)
    assert all(p.grad is None for p in net.parameters())


def test_the_anchor_stays_where_it_was_when_the_network_moves_on() -> None:
    net = MLP.build()
    method = Anchor(Uniform(), 1.0).consolidate(net, Expert(TASK, net.state_dict()), [])
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
        p.data += 1
    add_gradients_(method, net)
    assert all((p.grad == 2).all() for name, p in net.named_parameters() if name in method.anchor)


def test_a_penalty_that_starts_at_the_third_task_leaves_the_second_alone() -> None:
    net = MLP.build()
    method = Anchor(Uniform(), 1.0, accumulate=False, first_task=3)
    expert = MLP.expert()
    for task, penalised in ((2, False), (3, True)):
        method = method.consolidate(net, expert, [])
        for p in net.parameters():
            p.grad = torch.zeros_like(p)
        add_gradients_(method, net)
        assert any(bool(p.grad.any()) for p in net.parameters()) == penalised, task


def test_a_pulled_head_feels_its_distance_from_where_it_started() -> None:
    net, expert = MLP.build(), MLP.expert()
    method = Anchor(Uniform(), 0.3, accumulate=False, pull_head=True).consolidate(net, expert, [])
    net.load_state_dict(expert.state)
    moved = {"head.weight": 0.5, "head.bias": -0.25}
    for name, p in net.named_parameters():
        p.data += moved.get(name, 0.0)
        p.grad = torch.zeros_like(p)
    add_gradients_(method, net)
    for name, p in net.named_parameters():
        close(p.grad, torch.full_like(p, 2 * 0.3 * moved.get(name, 0.0)))


def test_a_limit_cuts_the_sum_of_the_importances_and_nothing_below_it() -> None:
    net, x, y = MLP.build(), MLP.images(6), labels(6)
    free, cut = Anchor(FIM(), 400.0), Anchor(FIM(), 400.0, limit=0.5)
    for seed in (1, 2, 3):
        expert = MLP.expert(seed)
        free, cut = (method.consolidate(net, expert, [(x, y)]) for method in (free, cut))
    stiff = {name: 2 * 400 * o for name, o in free.omega.items()}
    assert any((s > 0.5).any() for s in stiff.values())
    assert any((s < 0.5).any() for s in stiff.values())
    for name in stiff:
        close(2 * 400 * cut.omega[name], stiff[name].clamp(max=0.5))


def test_a_stiff_penalty_diverges_and_with_the_limit_of_one_step_it_does_not() -> None:
    for limit, stays in ((None, False), (1 / 0.01, True)):
        net = MLP.build()
        method = Anchor(Uniform(), 1e4, limit=limit).consolidate(net, MLP.expert(), [])
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
        for _ in range(300):
            for p in net.parameters():
                p.grad = torch.zeros_like(p)
            add_gradients_(method, net)
            optimizer.step()
        distance = max(
            float((p.detach() - method.anchor[n]).abs().max()) for n, p in net.named_parameters() if n in method.anchor
        )
        assert (distance < 1e-3) == stays


def test_what_it_holds_goes_to_another_device() -> None:
    ((expert, x, y), *_) = learnt(MLP)
    method = Anchor(MAS(), 1.0).consolidate(MLP.build(), expert, [(x, y)])
    moved = method.on(torch.device("meta"))
    assert {tensor.device.type for tensor in [*moved.anchor.values(), *moved.omega.values()]} == {"meta"}
    assert (moved.learnt, moved.strength, set(moved.omega)) == (1, 1.0, set(method.omega))
    assert {tensor.device.type for tensor in method.omega.values()} == {"cpu"}
