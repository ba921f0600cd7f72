"""Accuracy within a task's columns."""

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from dua_lightning import evaluation as module
from dua_lightning.data.images import Kept, images
from dua_lightning.errors import InputError
from dua_lightning.evaluation import (
    accuracies,
    accuracy,
    accuracy_per_task,
)
from dua_lightning.nets import Network, mlp
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


@pytest.mark.parametrize("users", [1, 2, 5])
@pytest.mark.parametrize("case", CASES)
def test_many_users_have_the_accuracy_that_each_has_alone(case: Case, users: int) -> None:
    net, threads = case.build(), torch.get_num_threads()
    states = [case.expert(seed).state for seed in range(users)]
    data = [batches(case.images(9, seed), labels(9, seed=seed), 4) for seed in range(users)]
    with untouched(net):
        together = accuracies(net, states, TASK, data)
    assert together == [accuracy(net, state, TASK, own) for state, own in zip(states, data, strict=True)]
    assert torch.get_num_threads() == threads


def convolutional(seed: int) -> Network:
    torch.manual_seed(seed)
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.Flatten())
    return Network(body, nn.Linear(4 * 4, 6, bias=False))


def two_layers(seed: int) -> nn.Module:
    """No `Network`: what it does after its head is not known."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 5), nn.ReLU(), nn.Linear(5, 6))


BUILDERS = [partial(mlp, (3, 4, 4), 6, width=5), convolutional, two_layers]
ALL = [Task("a", slice(0, 2)), Task("b", slice(2, 3)), Task("c", slice(3, 6))]


def of_all_tasks() -> Kept:
    stream = torch.Generator().manual_seed(0)
    parts = []
    for count, task in zip((4, 5, 6), ALL, strict=True):
        pixels = torch.randint(0, 256, (count, 3, 4, 4), dtype=torch.uint8, generator=stream)
        parts.append(images(pixels, labels(count, task), torch.arange(count), 0.5, 0.25))
    return Kept(parts)


@pytest.mark.parametrize("size", [500, 2])
@pytest.mark.parametrize("same", ["nothing", "the body", "everything"])
@pytest.mark.parametrize("build", BUILDERS, ids=["mlp", "convolutional", "two layers"])
def test_tasks_together_have_the_accuracy_that_each_has_alone(
    build: Callable[..., nn.Module], same: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EVALUATION_BATCH", size)
    monkeypatch.setattr(module, "PASS_BYTES", 1)
    net, kept = build(seed=9), of_all_tasks()
    found = set()
    for seed in range(0, 30, 3):
        states = [build(seed=seed + t).state_dict() for t in range(3)]
        if same == "everything":
            states = [states[0]] * 3
        if same == "the body":
            heads = [{n: t for n, t in state.items() if n.startswith(("head.", "3."))} for state in states]
            states = [states[0] | head for head in heads]
        expected = []
        for state, task, half in zip(states, ALL, kept.parts, strict=True):
            alone = build(seed=9)
            alone.load_state_dict(state)
            columns = [alone.eval()(x[None])[0, task.classes].tolist() for x in half.inputs()]
            right = [
                c.index(max(c)) + task.classes.start == y for c, y in zip(columns, half.labels.tolist(), strict=True)
            ]
            expected.append(100 * sum(right) / len(right))
        with untouched(net):
            before = copy.deepcopy(states)
            assert accuracy_per_task(net, states, ALL, kept) == pytest.approx(expected)
            assert accuracy_per_task(net, states[:2], ALL[:2], kept) == pytest.approx(expected[:2])
            assert all(torch.equal(a[n], b[n]) for a, b in zip(states, before, strict=True) for n in a)
        found |= set(expected)
    assert len(found) > 4


def test_one_body_runs_once_and_several_bodies_once_each() -> None:
    net, kept = convolutional(0), of_all_tasks()
    runs: list[int] = []
    net.body.register_forward_hook(lambda _, args, __: runs.append(len(args[0])))
    one = convolutional(1).state_dict()
    accuracy_per_task(net, [one | {"head.weight": torch.randn(6, 16)} for _ in ALL], ALL, kept)
    assert runs == [15]
    runs.clear()
    accuracy_per_task(net, [convolutional(t).state_dict() for t in range(3)], ALL, kept)
    assert runs == [4, 5, 6]


def test_tasks_with_columns_in_common_have_a_head_each() -> None:
    net, kept = mlp((3, 4, 4), 6, seed=0), of_all_tasks()
    tasks = [Task(name, slice(0, 6)) for name in "abc"]
    # Each head says one class, whatever the image.
    said = [int(part.labels[0]) for part in kept.parts]
    still = net.state_dict() | {"head.weight": torch.zeros_like(net.head.weight)}
    states = [still | {"head.bias": torch.eye(6)[c]} for c in said]
    expected = [100 * int((part.labels == c).sum()) / len(part) for part, c in zip(kept.parts, said, strict=True)]
    assert min(expected) > 0
    assert accuracy_per_task(net, states, tasks, kept) == expected


def test_together_too_a_task_without_images_or_labels_is_an_input_error() -> None:
    net, kept = convolutional(0), of_all_tasks()
    states = [net.state_dict()] * 3
    with pytest.raises(InputError, match="task a needs labels"):
        accuracy_per_task(net, states, ALL, Kept(kept.parts, labelled=False))
    with pytest.raises(InputError, match="task b needs at least one image"):
        accuracy_per_task(net, states, ALL, Kept([kept.parts[0], kept.parts[1][:0], kept.parts[2]]))


def test_a_user_without_images_is_an_input_error_among_many() -> None:
    data = [[(MLP.images(3), labels(3))], []]
    with pytest.raises(InputError, match="at least one image"):
        accuracies(MLP.build(), [MLP.expert().state] * 2, TASK, data)
