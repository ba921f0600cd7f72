"""Calibration by the server: the temperature is the best one, and no prediction changes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dua_lightning.errors import InputError
from dua_lightning.merge import Mean, ServerStatistics
from dua_lightning.merge.calibration import HIGHEST, LOWEST, calibrated, temperature
from dua_lightning.params import task_logits
from dua_lightning.tasks import Batch, Task
from tests.helpers.nets import BATCH_NORM, MLP, close, equal, law, untouched
from tests.reference import calibration_loop

TASKS = [Task(f"t{k}", slice(2 * k, 2 * k + 2)) for k in range(3)]
EXPERTS = [BATCH_NORM.expert(seed, task) for seed, task in enumerate(TASKS)]
MODEL = Mean()(EXPERTS, [], {})


class OfTask:
    """The server's validation data of one task, in batches of 4, and labels drawn at random."""

    def __init__(self, task: Task, seed: int) -> None:
        self.task = task
        self.images = BATCH_NORM.images(10, seed)
        self.labels = torch.randint(2, (10,), generator=torch.Generator().manual_seed(seed)) + task.classes.start

    def val_dataloader(self) -> list[Batch]:
        return list(zip(self.images.split(4), self.labels.split(4), strict=True))


DATA = [OfTask(task, seed) for seed, task in enumerate(TASKS)]


def drawn(seed: int, n: int, C: int) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(seed)
    return torch.randn(n, C, generator=source).double() * 3, torch.randint(C, (n,), generator=source)


@law
@given(seed=st.integers(0, 999), n=st.integers(3, 12), C=st.integers(2, 4), factor=st.floats(0.5, 2))
def test_the_temperature_has_the_smallest_cross_entropy_and_follows_the_logits(
    seed: int, n: int, C: int, factor: float
) -> None:
    logits, columns = drawn(seed, n, C)
    found = temperature(logits, columns)
    best = calibration_loop.temperature(logits, columns, LOWEST, HIGHEST, 60)
    at = calibration_loop.cross_entropy
    assert at(logits, columns, found) <= at(logits, columns, best) + 1e-9
    if 2 * LOWEST < found < HIGHEST / 2:
        assert temperature(factor * logits, columns) == pytest.approx(factor * found)


def test_logits_that_are_always_right_or_say_nothing_have_the_ends_of_the_range() -> None:
    logits = torch.tensor([[9.0, 0.0], [0.0, 9.0]])
    assert temperature(logits, torch.tensor([0, 1])) == pytest.approx(LOWEST)
    assert temperature(logits, torch.tensor([1, 0])) == pytest.approx(HIGHEST)


def test_the_server_calibrates_each_task_and_changes_no_prediction() -> None:
    net = BATCH_NORM.build()
    plain = ServerStatistics()(net, EXPERTS, MODEL, DATA)
    with untouched(net, MODEL["t1"]):
        found = ServerStatistics(calibrate=True)(net, EXPERTS, MODEL, DATA)
    for of_task in DATA:
        task = of_task.task
        before, after = (
            task_logits(net.eval(), states[task.name], of_task.images, task.classes) for states in (plain, found)
        )
        T = temperature(before, task.columns(of_task.labels))
        close(after * T, before)
        equal({"argmax": after.argmax(1)}, {"argmax": before.argmax(1)})
        others = [name for name in plain[task.name] if not name.startswith("head")]
        equal({n: found[task.name][n] for n in others}, {n: plain[task.name][n] for n in others})
        rest = torch.ones(6, dtype=torch.bool)
        rest[task.classes] = False
        for name in ("head.weight", "head.bias"):
            assert torch.equal(found[task.name][name][rest], plain[task.name][name][rest])


def test_a_network_without_batch_norm_is_calibrated_too() -> None:
    experts = [MLP.expert(seed, task) for seed, task in enumerate(TASKS)]
    model = Mean()(experts, [], {})
    data = [OfTask(task, seed) for seed, task in enumerate(TASKS)]
    for of_task in data:
        of_task.images = MLP.images(10, 1)
    found = ServerStatistics(calibrate=True)(MLP.build(), experts, model, data)
    assert not torch.equal(found["t0"]["head.weight"], model["t0"]["head.weight"])


def test_a_head_of_several_layers_is_refused() -> None:
    with pytest.raises(InputError, match=r"head.0.weight.*one linear layer"):
        calibrated({"body.weight": torch.ones(2), "head.0.weight": torch.ones(2, 2)}, TASKS[0], 2.0)
