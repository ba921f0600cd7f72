"""LwF's distillation against its loop, and what the teacher is."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from dua_lightning.errors import InputError
from dua_lightning.regularise import LwF
from dua_lightning.tasks import Task
from tests.helpers.nets import BATCH_NORM, CASES, DROPOUT, MLP, Case, add_gradients_, close, equal
from tests.reference.lwf_loop import lwf

OLD = [Task("one", slice(0, 1)), Task("three", slice(1, 4)), Task("two", slice(4, 6))]
"""Earlier tasks of different sizes."""
NO_TRAINER: Any = None


def begun(case: Case, method: LwF, tasks: list[Task] = OLD) -> tuple[LwF, nn.Module, nn.Module]:
    """The regulariser at the start of a fit after `tasks`, the module in training, and what the teacher must be."""
    net = case.build()
    for seed, task in enumerate(tasks, start=1):
        net.load_state_dict(case.expert(seed).state)
        method.consolidate(net, task, [])
    teacher, student = copy.deepcopy(net).eval(), case.build()
    method.on_fit_start(NO_TRAINER, student)
    return method, student, teacher


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
@pytest.mark.parametrize("tasks", [OLD[1:2], OLD], ids=["one task", "three tasks"])
@pytest.mark.parametrize("case", CASES)
def test_the_loss_is_the_sum_over_old_tasks_of_the_mean_cross_entropy_of_softened_outputs(
    case: Case, tasks: list[Task], temperature: float
) -> None:
    method, net, teacher = begun(case, LwF(0.7, temperature), tasks)
    x = case.images(4)
    logits = net(x)
    columns = [range(6)[task.classes] for task in tasks]
    expected = lwf(logits.tolist(), teacher(x).tolist(), columns, temperature, 0.7)
    close(method.loss(net, x, logits), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_gradient_is_that_of_the_softmax_over_t_with_no_factor_t_squared(temperature: float) -> None:
    method, net, teacher = begun(MLP, LwF(3.0, temperature))
    x = MLP.images(4)
    logits = MLP.images(4, 5).flatten(1).requires_grad_()
    method.loss(net, x, logits).backward()
    expected = torch.zeros_like(logits)
    for task in OLD:
        p, q = ((z[:, task.classes] / temperature).softmax(1) for z in (logits.detach(), teacher(x)))
        expected[:, task.classes] = (3.0 * (p - q) / (temperature * 4)).detach()
    close(logits.grad, expected)


def test_columns_of_no_old_task_are_not_read() -> None:
    method, net, _ = begun(MLP, LwF(), OLD[1:2])
    logits = MLP.images(4, 5).flatten(1).requires_grad_()
    method.loss(net, MLP.images(4), logits).backward()
    assert (logits.grad[:, 1:4] != 0).all()
    assert (logits.grad[:, [0, 4, 5]] == 0).all()


def test_strength_1_and_temperature_2_are_the_defaults() -> None:
    assert (LwF().strength, LwF().temperature) == (1.0, 2.0)


def test_the_first_task_has_nothing_to_distil() -> None:
    net, x, method = MLP.build(), MLP.images(2), LwF()
    method.on_fit_start(NO_TRAINER, net)
    assert method.loss(net, x, net(x)) is None


@pytest.mark.parametrize("case", [BATCH_NORM, DROPOUT], ids=lambda case: case.name)
def test_the_teacher_stays_as_it_was_while_the_student_trains(case: Case) -> None:
    method, net, teacher = begun(case, LwF())
    x = case.images(4)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    fixed = torch.zeros(4, 6).double()
    before = method.loss(net, x, fixed)
    for _ in range(3):
        optimizer.zero_grad()
        method.loss(net, x, net(x)).backward()
        optimizer.step()
    equal(method.loss(net, x, fixed), before)
    equal(method.teacher, teacher.state_dict())
    assert net.training
    assert all(p.requires_grad for p in net.parameters())


def test_the_teacher_is_the_last_task_alone_and_a_copy_of_its_weights() -> None:
    method, net = LwF(), MLP.build()
    for task in OLD[:2]:
        before = copy.deepcopy(net.state_dict())
        method.consolidate(net, task, [])
        with torch.no_grad():
            for p in net.parameters():
                p.add_(1)
    equal(method.teacher, before)
    assert method.tasks == (OLD[0], OLD[1])


def test_no_gradient_is_added_besides_the_losss() -> None:
    method, net, _ = begun(MLP, LwF())
    add_gradients_(method, net)
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("wrong", [{"strength": -1.0}, {"temperature": 0.0}, {"temperature": float("nan")}])
def test_a_strength_below_0_or_a_temperature_not_above_it_is_an_input_error(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        LwF(**wrong)
