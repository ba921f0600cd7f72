"""LwF's distillation against its loop, and what the teacher is."""

import copy

import pytest
import torch
from torch import nn

from dua_lightning.errors import InputError
from dua_lightning.regularise import Distil
from dua_lightning.tasks import Expert, Task
from tests.helpers.nets import BATCH_NORM, CASES, DROPOUT, MLP, Case, add_gradients_, close, equal, labels
from tests.reference.lwf_loop import lwf

OLD = [Task("one", slice(0, 1)), Task("three", slice(1, 4)), Task("two", slice(4, 6))]
"""Earlier tasks of different sizes."""


def consolidated(case: Case, method: Distil, tasks: list[Task] = OLD) -> tuple[Distil, nn.Module]:
    """The regulariser after `tasks`, and the model it must have for a teacher."""
    net = case.build()
    for seed, task in enumerate(tasks, start=1):
        method = method.consolidate(net, case.expert(seed, task), [])
    teacher = case.build().eval()
    teacher.load_state_dict(case.expert(len(tasks)).state)
    return method, teacher


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
@pytest.mark.parametrize("tasks", [OLD[1:2], OLD], ids=["one task", "three tasks"])
@pytest.mark.parametrize("case", CASES)
def test_the_loss_is_the_sum_over_old_tasks_of_the_mean_cross_entropy_of_softened_outputs(
    case: Case, tasks: list[Task], temperature: float
) -> None:
    method, teacher = consolidated(case, Distil(0.7, temperature), tasks)
    net, x = case.build(), case.images(4)
    logits = net(x)
    columns = [range(6)[task.classes] for task in tasks]
    expected = lwf(logits.tolist(), teacher(x).tolist(), columns, temperature, 0.7)
    close(method.loss(net, x, logits), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_gradient_is_that_of_the_softmax_over_t_with_no_factor_t_squared(temperature: float) -> None:
    method, teacher = consolidated(MLP, Distil(3.0, temperature))
    x = MLP.images(4)
    logits = MLP.images(4, 5).flatten(1).requires_grad_()
    method.loss(MLP.build(), x, logits).backward()
    expected = torch.zeros_like(logits)
    for task in OLD:
        p, q = ((z[:, task.classes] / temperature).softmax(1) for z in (logits.detach(), teacher(x)))
        expected[:, task.classes] = (3.0 * (p - q) / (temperature * 4)).detach()
    close(logits.grad, expected)


def test_columns_of_no_old_task_are_not_read() -> None:
    method, _ = consolidated(MLP, Distil(), OLD[1:2])
    logits = MLP.images(4, 5).flatten(1).requires_grad_()
    method.loss(MLP.build(), MLP.images(4), logits).backward()
    assert (logits.grad[:, 1:4] != 0).all()
    assert (logits.grad[:, [0, 4, 5]] == 0).all()


def test_strength_1_and_temperature_2_are_the_defaults() -> None:
    assert (Distil().strength, Distil().temperature) == (1.0, 2.0)


def test_the_first_task_has_nothing_to_distil() -> None:
    net, x = MLP.build(), MLP.images(2)
    assert Distil().loss(net, x, net(x)) is None


@pytest.mark.parametrize("case", [BATCH_NORM, DROPOUT], ids=lambda case: case.name)
def test_the_teacher_stays_as_it_was_while_the_student_trains(case: Case) -> None:
    method, teacher = consolidated(case, Distil())
    net, x = case.build(), case.images(4)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    fixed = torch.zeros(4, 6).double()
    before = method.loss(net, x, fixed)
    for _ in range(3):
        optimizer.zero_grad()
        method.loss(net, x, net(x)).backward()
        optimizer.step()
    equal(method.loss(net, x, fixed), before)
    equal(method.teacher.state_dict(), teacher.state_dict())
    assert not any(module.training for module in method.teacher.modules())
    assert not any(p.requires_grad for p in method.teacher.parameters())
    assert net.training
    assert all(p.requires_grad for p in net.parameters())


def test_the_loss_reaches_the_student_and_lowers_its_distance_from_the_teacher() -> None:
    method, teacher = consolidated(MLP, Distil())
    net, x = MLP.build(), MLP.images(8)

    @torch.no_grad()
    def distance() -> float:
        return float((net(x)[:, 1:4].log_softmax(1) - teacher(x)[:, 1:4].log_softmax(1)).abs().mean())

    start = distance()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    for _ in range(50):
        optimizer.zero_grad()
        method.loss(net, x, net(x)).backward()
        optimizer.step()
    assert distance() < start / 2


def test_consolidating_changes_neither_the_regulariser_nor_the_network_nor_the_expert() -> None:
    net, one, two = MLP.build(), MLP.expert(1, OLD[0]), MLP.expert(2, OLD[1])
    empty = Distil()
    first = empty.consolidate(net, one, [])
    before = copy.deepcopy((net.state_dict(), one.state, two.state, first.teacher.state_dict()))
    second = first.consolidate(net, two, [])
    nn.functional.cross_entropy(net(MLP.images(2)), labels(2)).backward()
    equal((net.state_dict(), one.state, two.state, first.teacher.state_dict()), before)
    assert (empty.tasks, first.tasks, second.tasks) == ((), (OLD[0],), (OLD[0], OLD[1]))


def test_the_teacher_is_a_copy_of_the_experts_state() -> None:
    net = MLP.build()
    live = Expert(OLD[1], net.state_dict())
    method = Distil().consolidate(net, live, [])
    before = copy.deepcopy(net.state_dict())
    with torch.no_grad():
        for p in net.parameters():
            p.add_(1)
    equal(method.teacher.state_dict(), before)


def test_no_gradient_is_added_besides_the_losss() -> None:
    method, _ = consolidated(MLP, Distil())
    net = MLP.build()
    add_gradients_(method, net)
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("wrong", [{"strength": -1.0}, {"temperature": 0.0}, {"temperature": float("nan")}])
def test_a_strength_below_0_or_a_temperature_not_above_it_is_an_input_error(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        Distil(**wrong)


def test_the_teacher_goes_to_another_device() -> None:
    method, _ = consolidated(MLP, Distil(3.0))
    moved = method.on(torch.device("meta"))
    assert {p.device.type for p in moved.teacher.parameters()} == {"meta"}
    assert (moved.strength, moved.tasks) == (3.0, method.tasks)
    assert {p.device.type for p in method.teacher.parameters()} == {"cpu"}
    assert Distil().on(torch.device("meta")) == Distil()
