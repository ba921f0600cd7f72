"""The cost of an adaptation: counted, not guessed."""

import math
import time

import pytest
import torch

from dua_lightning.adapt import AdaBN, Finetune, Unchanged
from dua_lightning.adapt.cost import measured
from dua_lightning.params import State, device_of
from tests.helpers.nets import BATCH_NORM, MLP, TASK, equal, labels


def test_the_state_is_that_of_the_adaptation() -> None:
    net, state, data = BATCH_NORM.build(), BATCH_NORM.expert().state, [(BATCH_NORM.images(4), None)]
    final, _ = measured(AdaBN(), net, state, TASK, data)
    equal(final, AdaBN()(net, state, TASK, data))


def test_only_what_differs_takes_memory_on_the_device() -> None:
    net, state = BATCH_NORM.build(), BATCH_NORM.expert().state
    _, nothing = measured(Unchanged(), net, state, TASK, [])
    assert (nothing.trainable, nothing.bytes) == (0, 0)
    _, statistics = measured(AdaBN(), net, state, TASK, [(BATCH_NORM.images(4), None)])
    assert (statistics.trainable, statistics.bytes) == (
        0,
        sum(t.nbytes for name, t in state.items() if "running" in name),
    )
    net, state = MLP.build(), MLP.expert().state
    _, all_of_it = measured(Finetune(), net, state, TASK, [(MLP.images(4), labels(4))])
    used = sum(t.nbytes for name, t in state.items() if not name.startswith("head"))
    assert all_of_it.trainable == sum(p.numel() for p in net.parameters())
    assert used <= all_of_it.bytes <= sum(t.nbytes for t in state.values())


class Slow(Unchanged):
    """Takes a tenth of a second."""

    def __call__(self, net: object, state: State, task: object, data: object) -> State:
        time.sleep(0.1)
        return state


def test_time_is_that_of_the_call() -> None:
    _, cost = measured(Slow(), MLP.build(), MLP.expert().state, TASK, [])
    assert 0.1 <= cost.seconds < 1


def test_memory_is_not_guessed_on_the_processor() -> None:
    _, cost = measured(Finetune(), MLP.build(), MLP.expert().state, TASK, [(MLP.images(4), labels(4))])
    assert math.isnan(cost.peak_bytes)


class Greedy(Unchanged):
    """Holds 64 MiB, then 24 MiB."""

    def __call__(self, net: object, state: State, task: object, data: object) -> State:
        for size in (64, 24):
            torch.zeros(size * 2**20, dtype=torch.uint8, device=device_of(state))
        return state


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_three_measurements_on_a_gpu_count_the_same_bytes() -> None:
    state = {name: tensor.cuda() for name, tensor in MLP.expert().state.items()}
    peaks = [measured(Greedy(), MLP.build(), state, TASK, [])[1].peak_bytes for _ in range(3)]
    assert peaks == [64 * 2**20] * 3
