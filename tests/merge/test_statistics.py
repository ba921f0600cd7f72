"""Batch-norm statistics of a merged model: whose they are, and that nothing else changes."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from dua_lightning.merge import (
    LastStatistics,
    Mean,
    MeanStatistics,
    ServerStatistics,
    Statistics,
    TaskStatistics,
)
from dua_lightning.tasks import Batch, Task
from tests.helpers.nets import BATCH_NORM, MLP, close, equal, untouched

TASKS = [Task(f"t{k}", slice(2 * k, 2 * k + 2)) for k in range(3)]
EXPERTS = [BATCH_NORM.expert(seed, task) for seed, task in enumerate(TASKS)]
MODEL = Mean()(EXPERTS, [], {})
RUNNING = [name for name in MODEL["t0"] if "running" in name]
EVERY = [LastStatistics(), TaskStatistics(), MeanStatistics(), ServerStatistics(3)]


class OfTask:
    """The server's validation data of one task, in batches of 4."""

    def __init__(self, task: Task, seed: int) -> None:
        self.task = task
        self.images = BATCH_NORM.images(10, seed)

    def val_dataloader(self) -> list[Batch]:
        return [(x, None) for x in self.images.split(4)]


def note(inputs: dict[str, torch.Tensor], name: str, _: object, args: tuple[Any, ...]) -> None:
    inputs[name] = args[0]


DATA = [OfTask(task, seed) for seed, task in enumerate(TASKS)]


@pytest.mark.parametrize("statistics", EVERY, ids=lambda one: type(one).__name__)
def test_nothing_but_the_statistics_changes(statistics: Statistics) -> None:
    net = BATCH_NORM.build()
    with untouched(net, MODEL["t1"]):
        found = statistics(net, EXPERTS, MODEL, DATA)
    assert list(found) == list(MODEL)
    for task, state in MODEL.items():
        rest = [name for name in state if name not in RUNNING and not name.endswith("num_batches_tracked")]
        equal({name: found[task][name] for name in rest}, {name: state[name] for name in rest})
        assert list(found[task]) == list(state)


@pytest.mark.parametrize(
    ("statistics", "whose"),
    [(LastStatistics(), lambda _: EXPERTS[-1]), (TaskStatistics(), lambda k: EXPERTS[k])],
    ids=["last", "task"],
)
def test_they_are_the_last_experts_or_each_tasks_own(statistics: Statistics, whose: Callable[[int], object]) -> None:
    found = statistics(BATCH_NORM.build(), EXPERTS, MODEL, DATA)
    for k, task in enumerate(TASKS):
        equal({n: found[task.name][n] for n in RUNNING}, {n: whose(k).state[n] for n in RUNNING})


def test_the_mean_is_of_pooled_data() -> None:
    found = MeanStatistics()(BATCH_NORM.build(), EXPERTS, MODEL, DATA)
    for name in (n for n in RUNNING if n.endswith("mean")):
        variance = name.replace("mean", "var")
        # Data whose moments are those of each expert: mean - std and mean + std.
        spread = [(e.state[name], e.state[variance].sqrt()) for e in EXPERTS]
        pooled = torch.cat([torch.stack([mean - std, mean + std]) for mean, std in spread])
        for task in TASKS:
            close(found[task.name][name], pooled.mean(0))
            close(found[task.name][variance], pooled.var(0, correction=0))


def test_the_servers_are_those_of_its_validation_data_through_the_model_itself() -> None:
    found = ServerStatistics(3)(BATCH_NORM.build(), EXPERTS[:2], {k: MODEL[k] for k in ("t0", "t1")}, DATA)
    assert list(found) == ["t0", "t1"]
    for k in range(2):
        net = BATCH_NORM.build()
        net.load_state_dict(found[f"t{k}"])
        inputs = {}
        for name, layer in net.named_modules():
            if f"{name}.running_mean" in RUNNING:
                layer.register_forward_pre_hook(partial(note, inputs, name))
        net.eval()(DATA[k].images)
        assert len(inputs) == 2
        for name, x in inputs.items():
            over = [d for d in range(x.dim()) if d != 1]
            close(found[f"t{k}"][f"{name}.running_mean"], x.mean(over), 1e-7)
            close(found[f"t{k}"][f"{name}.running_var"], x.var(over, correction=0), 1e-7)


@pytest.mark.parametrize("statistics", EVERY, ids=lambda one: type(one).__name__)
def test_a_network_without_batch_norm_is_left_as_it_is(statistics: Statistics) -> None:
    experts = [MLP.expert(seed, task) for seed, task in enumerate(TASKS)]
    model = Mean()(experts, [], {})
    equal(statistics(MLP.build(), experts, model, []), model)
