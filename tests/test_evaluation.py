"""Accuracy within a task's columns."""

import pytest
import torch
from torch import nn

from dua_lightning.errors import InputError
from dua_lightning.evaluation import accuracy
from dua_lightning.tasks import Task
from tests.helpers.nets import CASES, MLP, TASK, Case, batches, labels, untouched


@pytest.mark.parametrize("size", [1, 4, 9])
@pytest.mark.parametrize("case", CASES)
def test_accuracy_is_the_percentage_of_images_whose_own_class_has_the_largest_logit(case: Case, size: int) -> None:
    x, y, state = case.images(9), labels(9), case.expert().state
    net = case.build().eval()
    net.load_state_dict(state)
    correct = 0
    for xi, yi in zip(x, y, strict=True):
        logits = net(xi[None])[0].tolist()
        correct += max((2, 3, 4), key=lambda c: logits[c]) == int(yi)
    assert accuracy(case.build(), state, TASK, batches(x, y, size)) == pytest.approx(100 * correct / 9, rel=1e-12)


@pytest.mark.parametrize(
    ("classes", "expected"), [(slice(2, 5), 50.0), (slice(0, 6), 25.0), (slice(3, 4), 50.0), (slice(4, 6), 0.0)]
)
def test_accuracy_reads_the_columns_of_the_task_alone(classes: slice, expected: float) -> None:
    net = nn.Linear(1, 6)
    state = {"weight": torch.zeros(6, 1), "bias": torch.tensor([9.0, 0.0, 1.0, 3.0, 2.0, 8.0])}
    y = torch.tensor([3, 3, 2, 0])
    assert accuracy(net, state, Task("t", classes), [(torch.zeros(4, 1), y)]) == expected


@pytest.mark.parametrize("case", CASES)
def test_measuring_accuracy_leaves_the_network_and_the_state_alone(case: Case) -> None:
    net, state = case.build(), case.expert().state
    with untouched(net, state):
        accuracy(net, state, TASK, batches(case.images(4), labels(4), 2))


def test_no_image_and_no_label_are_input_errors() -> None:
    state = MLP.expert().state
    for data in ([], [(MLP.images(0), labels(0))]):
        with pytest.raises(InputError, match="at least one image"):
            accuracy(MLP.build(), state, TASK, data)
    with pytest.raises(InputError, match="needs labels"):
        accuracy(MLP.build(), state, TASK, [(MLP.images(2), labels(2)), (MLP.images(2), None)])


NAN, INF = float("nan"), float("inf")


def scores(rows: list[list[float]], classes: slice = slice(0, 2)) -> float:
    """The accuracy of a network that gives these logits, where the first class is right."""
    x = torch.tensor(rows)
    data = [(x[:1], torch.zeros(1, dtype=torch.int64)), (x[1:], torch.zeros(len(x) - 1, dtype=torch.int64))]
    return accuracy(nn.Flatten(), {}, Task("t", classes), data)


@pytest.mark.parametrize("bad", [[NAN, 0.0, 0.0], [0.0, NAN, 0.0], [INF, 0.0, 0.0], [-INF, -INF, 0.0], [INF, NAN, 0.0]])
def test_one_image_without_a_largest_logit_leaves_no_accuracy(bad: list[float]) -> None:
    with pytest.raises(InputError, match="task t is not defined: the largest logit of 1 of 3 images"):
        scores([[1.0, 0.0, 0.0], bad, [0.0, 1.0, 0.0]])


def test_other_tasks_columns_and_classes_that_are_ruled_out_do_not_matter() -> None:
    assert scores([[1.0, 0.0, NAN], [1.0, -INF, INF], [-INF, 1.0, 0.0]]) == 100 * 2 / 3


def test_weights_that_are_not_finite_are_named() -> None:
    state = MLP.expert().state
    state["body.1.bias"] = torch.full_like(state["body.1.bias"], INF)
    with pytest.raises(InputError, match=r"4 of 4 images is NaN or infinite; body\.1\.bias of the state"):
        accuracy(MLP.build(), state, TASK, batches(MLP.images(4), labels(4), 2))
