"""The device: what is measured and adapted on a user's data, and the accuracy matrix."""

from collections.abc import Iterable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dua_lightning.adapt import Adapt, Finetune, Unchanged
from dua_lightning.data.benchmark import Benchmark
from dua_lightning.data.user import UserData
from dua_lightning.errors import InputError
from dua_lightning.importance import FIM, MAS
from dua_lightning.merge import Each, Last, Merge, Mode
from dua_lightning.params import Params, State, clone
from dua_lightning.regularise import NoRegulariser
from dua_lightning.server import merge_prefixes
from dua_lightning.tasks import Batch, Expert, Task, UserModel
from dua_lightning.training import fit
from dua_lightning.user import evaluate, measure, tasks_by_confidence
from tests.helpers import tiny
from tests.helpers.training import training
from tests.reference.confidence_loop import most_confident

TASKS = tiny.tasks()
START = tiny.network(seed=1).state_dict()


def hard(labelled: bool = True) -> Benchmark:
    """So hard that accuracies are neither 50 nor 100 percent."""
    return tiny.benchmark(per_class=20, labelled=labelled, noise=0.85)


def someone(labelled: bool = True) -> UserData:
    return hard(labelled).users[0]


@cache
def experts() -> tuple[Expert, ...]:
    """Trained one after another on the server."""
    net = tiny.network()
    asked = training(max_epochs=6, lr=0.02)
    return tuple(fit(net, of_task, NoRegulariser(), asked).expert for of_task in hard().server)


def priors() -> list[Params]:
    return measure(MAS(), tiny.network(), experts(), someone())


def matrix(models: Iterable[tuple[int, UserModel]], adapt: Adapt, data: UserData) -> np.ndarray:
    return evaluate(tiny.network(), experts(), models, adapt, data)[0]


class Nudge(Unchanged):
    """Moves the head by what the images and labels of the task are, whatever their order; counts its calls."""

    calls: list[tuple[int, str]]

    def __init__(self) -> None:
        object.__setattr__(self, "calls", [])

    def __call__(self, net: nn.Module, state: State, task: Task, data: Iterable[Batch]) -> State:
        self.calls.append((id(state), task.name))
        images, labels = (torch.cat(part) for part in zip(*data, strict=True))
        shift = images.double().mean() * 3 + labels.double().mean() / 10
        bias = state["head.bias"].double().clone()
        bias[task.classes.start] += shift
        return state | {"head.bias": bias.float()}


def naive(models: Iterable[tuple[int, UserModel]], adapt: Adapt, data: UserData) -> np.ndarray:
    """Adapt and count for every prefix and task anew, image by image."""
    R = np.full((3, 3), np.nan)
    for t, model in models:
        for j in range(t):
            final = adapt(
                tiny.network(seed=7), clone(model[TASKS[j].name]), TASKS[j], data.of(TASKS[j]).adaptation_batches()
            )
            net = tiny.network(seed=8)
            net.load_state_dict(final)
            right = 0
            for x, label in zip(
                data.of(TASKS[j]).evaluation.inputs(), data.of(TASKS[j]).evaluation.labels, strict=True
            ):
                logits: Tensor = net(x[None])[0].detach()
                columns = range(TASKS[j].classes.start, TASKS[j].classes.stop)
                right += max(columns, key=lambda c: float(logits[c])) == int(label)
            R[t - 1, j] = 100 * right / len(data.of(TASKS[j]).evaluation)
    return R


@pytest.mark.parametrize("merge", [Mode(), Last(), Each()], ids=["mode", "last", "each"])
@pytest.mark.parametrize("adapt", [Unchanged(), Nudge()], ids=["unchanged", "nudge"])
def test_the_matrix_is_that_of_a_naive_double_loop(merge: Merge, adapt: Adapt):
    R = matrix(merge_prefixes(merge, experts(), priors(), START), adapt, someone())
    expected = naive(merge_prefixes(merge, experts(), priors(), START), adapt, someone())
    np.testing.assert_allclose(R, expected, rtol=1e-12)
    assert len(np.unique(R[~np.isnan(R)])) > 2


def test_task_experts_finetuned_are_those_of_a_naive_double_loop():
    adapt = Finetune(epochs=3, lr=0.02)
    R = matrix(merge_prefixes(Each(), experts(), [], START), adapt, someone())
    np.testing.assert_allclose(R, naive(merge_prefixes(Each(), experts(), [], START), adapt, someone()), rtol=1e-12)
    before = matrix(merge_prefixes(Each(), experts(), [], START), Unchanged(), someone())
    assert np.nanmean(R) > np.nanmean(before) + 5


def test_what_is_not_adapted_costs_nothing():
    assert (
        evaluate(tiny.network(), experts(), merge_prefixes(Last(), experts(), [], START), Unchanged(), someone())[1]
        == []
    )


@pytest.mark.parametrize(("merge", "images"), [(Each(), [20] * 3), (Mode(), [20] * 6)], ids=["each", "mode"])
def test_a_state_is_evaluated_once(merge: Merge, images: list[int]):
    net, seen = tiny.network(), []
    net.body.register_forward_hook(lambda _, args, __: seen.append(len(args[0])))
    evaluate(net, experts(), merge_prefixes(merge, experts(), priors(), START), Unchanged(), someone())
    assert seen == images


def test_entries_on_and_below_the_diagonal_are_percent_and_those_above_are_nan():
    R = matrix(merge_prefixes(Last(), experts(), [], START), Unchanged(), someone())
    assert R.shape == (3, 3)
    np.testing.assert_array_equal(np.isnan(R), np.triu(np.ones((3, 3), bool), 1))
    assert ((R[~np.isnan(R)] >= 0) & (R[~np.isnan(R)] <= 100)).all()


def test_rows_of_prefixes_that_were_not_learnt_are_nan():
    """One model after all tasks, as for Joint training."""
    joint = experts()[1].state
    model = {task.name: joint for task in TASKS}
    R = matrix([(3, model)], Unchanged(), someone())
    np.testing.assert_array_equal(R, naive([(3, model)], Unchanged(), someone()))
    assert np.isnan(R[:2]).all()
    assert not np.isnan(R[2]).any()


@pytest.mark.parametrize(
    ("merge", "calls"),
    [(Each(), "abc"), (Last(), "aababc"), (Mode(), "aababc")],
    ids=["each", "last", "mode"],
)
def test_a_state_is_adapted_once_however_many_prefixes_it_serves(merge: Merge, calls: str):
    adapt = Nudge()
    matrix(merge_prefixes(merge, experts(), priors(), START), adapt, someone())
    assert "".join(task for _, task in adapt.calls) == calls


def test_a_state_that_serves_several_tasks_is_adapted_to_each():
    joint, adapt = experts()[0].state, Nudge()
    matrix([(3, {task.name: joint for task in TASKS})], adapt, someone())
    assert adapt.calls == [(id(joint), "a"), (id(joint), "b"), (id(joint), "c")]


@pytest.mark.parametrize(("merge", "count"), [(Each(), 3), (Last(), 6)], ids=["each", "last"])
def test_every_adaptation_has_its_cost_in_the_order_it_was_made(merge: Merge, count: int):
    adapt = Nudge()
    _, costs = evaluate(tiny.network(), experts(), merge_prefixes(merge, experts(), [], START), adapt, someone())
    assert [task.name for task, _ in costs] == [name for _, name in adapt.calls]
    assert len(costs) == count
    for _, cost in costs:
        assert cost.trainable == 0
        assert cost.bytes == 4 * 6
        assert cost.seconds > 0


def test_an_adaptation_that_asks_for_it_gets_the_expert_of_the_task():
    class Apart(Unchanged):
        """The weights of the expert, whatever was merged."""

        def of(self, expert: Expert) -> Adapt:
            class Own(Unchanged):
                def __call__(self, net: nn.Module, state: State, task: Task, data: Iterable[Batch]) -> State:
                    assert task == expert.task
                    return expert.state

            return Own()

    R = matrix(merge_prefixes(Last(), experts(), [], START), Apart(), someone())
    np.testing.assert_array_equal(R, matrix(merge_prefixes(Each(), experts(), [], START), Unchanged(), someone()))


def test_adaptation_reads_the_validation_half_of_its_task_alone():
    data, seen = someone(), []

    class Spy(Unchanged):
        def __call__(self, net: nn.Module, state: State, task: Task, batches: Iterable[Batch]) -> State:
            seen.append((task, torch.cat([x for x, _ in batches])))
            return state

    matrix(merge_prefixes(Each(), experts(), [], START), Spy(), data)
    assert [task for task, _ in seen] == list(TASKS)
    for (_, images), half in zip(seen, (data.of(task).validation for task in TASKS), strict=True):
        assert sorted(images.flatten(1).tolist()) == sorted(half.inputs().flatten(1).tolist())


def test_the_matrix_changes_neither_the_net_nor_the_experts():
    net, some = tiny.network(seed=6), experts()
    before = clone(net.state_dict()), [clone(expert.state) for expert in some]
    evaluate(net, some, merge_prefixes(Each(), some, [], START), Finetune(epochs=1, lr=0.1), someone())
    assert tiny.same(net.state_dict(), before[0])
    assert all(tiny.same(expert.state, state) for expert, state in zip(some, before[1], strict=True))


class Spy:
    """An importance that keeps what it was shown."""

    needs_labels = False

    def __init__(self) -> None:
        self.seen: list[tuple[Expert, list[Batch]]] = []

    def __call__(self, net: nn.Module, expert: Expert, data: Iterable[Batch]) -> Params:
        self.seen.append((expert, list(data)))
        return {"number": torch.tensor(len(self.seen))}


@pytest.mark.parametrize("labelled", [True, False])
def test_each_expert_is_measured_on_the_validation_half_of_its_task(labelled: bool):
    data, spy, some = someone(labelled), Spy(), experts()
    measured = measure(spy, tiny.network(), some, data)
    assert [int(prior["number"]) for prior in measured] == [1, 2, 3]
    for (expert, batches), given, half in zip(
        spy.seen, some, (data.of(task).validation for task in TASKS), strict=True
    ):
        assert expert is given
        assert torch.equal(torch.cat([x for x, _ in batches]), half.inputs())
        assert all((y is not None) == labelled for _, y in batches)


def test_mas_needs_no_labels_and_gets_the_same_with_and_without():
    a, b = (measure(MAS(), tiny.network(), experts(), someone(labelled)) for labelled in (True, False))
    assert all(tiny.same(x, y) for x, y in zip(a, b, strict=True))


def test_what_needs_labels_is_refused_on_a_device_without():
    with pytest.raises(InputError, match="needs labels"):
        measure(FIM(labels="true"), tiny.network(), experts(), someone(labelled=False))
    with pytest.raises(InputError, match="needs labels"):
        matrix(merge_prefixes(Each(), experts(), [], START), Finetune(), someone(labelled=False))


def test_users_and_iterations_measure_different_priors():
    far, near = hard().users
    measured = [measure(MAS(), tiny.network(), experts(), data)[0] for data in (far, near, far.draw(2))]
    assert not tiny.same(measured[0], measured[1])
    assert not tiny.same(measured[0], measured[2])


def test_what_is_measured_is_shaped_like_the_body_and_names_nothing_of_the_data():
    body = {name: value.shape for name, value in tiny.network().named_parameters() if name.startswith("body.")}
    for prior in priors():
        assert {name: value.shape for name, value in prior.items()} == body


def double(net: nn.Module, some: Iterable[Expert]) -> tuple[nn.Module, list[Expert]]:
    states = ({name: t.double() if t.is_floating_point() else t for name, t in expert.state.items()} for expert in some)
    return net.double(), [Expert(task, state) for task, state in zip(TASKS, states, strict=True)]


@pytest.mark.parametrize("uneven", [False, True])
def test_a_picture_without_a_task_goes_to_the_most_confident_expert(uneven: bool):
    net, some = double(tiny.network(seed=5), experts())
    if uneven:
        some = [Expert(Task("a", slice(0, 1)), some[0].state), Expert(Task("b", slice(1, 4)), some[1].state), some[2]]
    xs = torch.cat([tiny.pictures(noise=0.85).inputs(), torch.rand(200, *tiny.SHAPE)]).double()
    before = clone(net.state_dict())
    found = tasks_by_confidence(net, some, [(xs[:7], None), (xs[7:], torch.zeros(len(xs) - 7))])
    assert found.tolist() == most_confident(net, some, xs)
    assert len(found.unique()) == (1 if uneven else 3)
    assert tiny.same(net.state_dict(), before)


def test_of_experts_as_confident_as_each_other_the_first_is_taken():
    some = [Expert(task, experts()[0].state | {"head.weight": torch.zeros(6, 8)}) for task in TASKS]
    some = [Expert(e.task, e.state | {"head.bias": torch.zeros(6)}) for e in some]
    assert tasks_by_confidence(tiny.network(), some, [(torch.rand(4, *tiny.SHAPE), None)]).tolist() == [0] * 4


def test_an_expert_whose_logits_are_not_finite_sorts_nothing():
    broken = Expert(TASKS[1], experts()[1].state | {"head.bias": torch.full((6,), torch.nan)})
    with pytest.raises(InputError, match="expert of task b gives logits that are NaN or infinite"):
        tasks_by_confidence(tiny.network(), [experts()[0], broken], [(torch.rand(4, *tiny.SHAPE), None)])


def without(task: int) -> UserData:
    """A user without any images of a task."""
    data = someone(labelled=False)
    return data._with(images=[images[:0] if place == task else images for place, images in enumerate(data.images)])


@pytest.mark.parametrize("task", range(3))
@pytest.mark.parametrize("zero", ["mean", "zero"])
def test_a_task_without_images_has_no_importance_and_is_not_adapted(task: int, zero: str):
    data, adapt = without(task), Idle()
    found, plain = measure(MAS(), tiny.network(), experts(), data), priors()
    for place, (prior, expected) in enumerate(zip(found, plain, strict=True)):
        assert tiny.same(prior, {n: t * 0 if place == task else t for n, t in expected.items()})
    models = list(merge_prefixes(Mode(zero), experts(), found, START))
    assert all(tensor.isfinite().all() for _, model in models for state in model.values() for tensor in state.values())
    R, costs = evaluate(tiny.network(), experts(), models, adapt, data)
    assert np.isnan(R).all()
    assert TASKS[task].name not in {of.name for of, _ in costs}
    assert {of.name for of, _ in costs} == {of.name for of in TASKS} - {TASKS[task].name}


class Idle(Unchanged):
    """Adapts nothing, and is no `Unchanged`."""


def test_a_user_without_labels_is_adapted_and_not_scored():
    data = someone()
    images = [replace(part, labels=torch.full_like(part.labels, -1)) for part in data.images]
    R, costs = evaluate(
        tiny.network(), experts(), merge_prefixes(Last(), experts(), [], START), Idle(), data._with(images=images)
    )
    assert np.isnan(R).all()
    assert len(costs) == 6


def test_a_user_without_any_images_measures_nothing():
    data = someone(labelled=False)
    with pytest.raises(InputError, match="user far has no images of any task"):
        measure(MAS(), tiny.network(), experts(), data._with(images=[images[:0] for images in data.images]))
