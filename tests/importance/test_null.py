"""Null importances: noise in the place of images, and importances at the wrong weights."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

from dua_lightning.importance import FIM, MAS, Noise, Permuted, Uniform
from dua_lightning.merge import Mode
from dua_lightning.params import Params, loaded
from dua_lightning.streams import generator
from dua_lightning.tasks import Batch, Expert, Task
from tests.helpers.nets import CASES, MLP, TASK, TIED, Case, batches, close, equal, labels, untouched
from tests.reference.mas_loop import mas

NULLS = pytest.mark.parametrize("null", [Noise, Permuted])


@dataclass(frozen=True)
class Images:
    """An importance that gives the images and labels themselves."""

    needs_labels: ClassVar[bool] = True

    def __call__(self, net: nn.Module, expert: Expert, data: Iterable[Batch]) -> Params:
        x, y = zip(*data, strict=True)
        return {"x": torch.cat(x), "y": torch.cat(y)}


@NULLS
@pytest.mark.parametrize("case", CASES)
def test_it_depends_neither_on_batches_nor_on_anything_but_its_stream(null: type, case: Case) -> None:
    x, net, expert = case.images(7), case.build(), case.expert()
    with untouched(net, expert.state):
        found = null(MAS(), 3)(net, expert, batches(x, None, 3))
    close(null(MAS(), 3)(net, expert, batches(x, None, 7)), found)
    other = null(MAS(), 4)(net, expert, batches(x, None, 3))
    assert any(not torch.allclose(other[name], found[name]) for name in found)


@NULLS
def test_it_needs_labels_where_the_other_importance_does(null: type) -> None:
    assert [null(of).needs_labels for of in (MAS(), FIM(), Uniform())] == [False, True, False]


def test_noise_is_of_the_number_and_shape_of_the_images_and_of_nothing_else_of_them() -> None:
    x, y = MLP.images(2000), labels(2000)
    found = Noise(Images())(MLP.build(), MLP.expert(), batches(x, y, 64))
    assert found["x"].shape == x.shape
    equal(found["y"], y)
    equal(Noise(Images())(MLP.build(), MLP.expert(), batches(9 * x + 5, y, 64)), found)
    # Each number is a standard normal one, independent of the image that it stands for: 4 standard errors.
    error = 4 / len(x) ** 0.5
    assert (found["x"].mean(0).abs() < error).all()
    assert ((found["x"].square().mean(0) - 1).abs() < error * 2**0.5).all()
    assert ((found["x"] * x).mean(0).abs() < error * 1.2).all()


@pytest.mark.parametrize("case", CASES)
def test_an_importance_of_noise_is_its_loop_over_noise(case: Case) -> None:
    stream = generator(5, "noise", TASK.name)
    noise = torch.stack([torch.randn(case.shape, generator=stream, dtype=torch.float64) for _ in range(4)])
    found = Noise(MAS(), 5)(case.build(), case.expert(), batches(case.images(4), None, 3))
    expected = mas(case.build(), case.expert(), noise)
    close({name: found[name] for name in expected}, expected)


@pytest.mark.parametrize("case", CASES)
def test_each_tensor_keeps_its_values_and_loses_their_places(case: Case) -> None:
    data = batches(case.images(5), None, 5)
    whole = MAS()(case.build(), case.expert(), data)
    found = Permuted(MAS(), 1)(case.build(), case.expert(), data)
    assert found.keys() == whole.keys()
    for name, omega in whole.items():
        assert found[name].shape == omega.shape
        equal(found[name].flatten().sort().values, omega.flatten().sort().values)
    assert any(not torch.equal(found[name], whole[name]) for name in whole)


def test_each_task_and_each_tensor_has_a_permutation_of_its_own_and_all_users_the_same() -> None:
    @dataclass(frozen=True)
    class Places(Uniform):
        def __call__(self, net: nn.Module, expert: Expert, data: Iterable[Batch]) -> Params:
            return {name: torch.arange(30.0) for name in ("body.1.weight", "body.3.weight")}

    def order(task: Task, seed: int) -> list[list[float]]:
        found = Permuted(Places())(MLP.build(), MLP.expert(task=task), [(MLP.images(1, seed), None)])
        return [omega.tolist() for omega in found.values()]

    first, second = order(TASK, 1)
    assert first != second
    assert order(TASK, 2) == [first, second]
    assert order(Task("another", TASK.classes), 1)[0] != first


def test_a_tied_weight_stays_tied_in_a_merge() -> None:
    tasks = [Task("a", slice(0, 3)), Task("b", slice(3, 6))]
    experts = [TIED.expert(seed, task) for seed, task in enumerate(tasks, 1)]
    priors = [Permuted(MAS())(TIED.build(), expert, [(TIED.images(3), None)]) for expert in experts]
    for state in Mode()(experts, priors, {}).values():
        equal(loaded(TIED.build(), state).state_dict(), dict(state))
