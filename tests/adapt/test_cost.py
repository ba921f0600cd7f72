"""The cost of an adaptation: counted, not guessed."""

import time

import torch

from dua_lightning.adapt import AdaBN, Finetune, Unchanged
from dua_lightning.adapt.cost import measured
from dua_lightning.params import State
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


class Greedy(Unchanged):
    """Takes 64 MiB and a tenth of a second."""

    def __call__(self, net: object, state: State, task: object, data: object) -> State:
        torch.ones(16 * 2**20).add_(1)
        time.sleep(0.1)
        return state


def test_time_and_memory_are_those_of_the_call() -> None:
    _, cost = measured(Greedy(), MLP.build(), MLP.expert().state, TASK, [])
    assert 0.1 <= cost.seconds < 1
    assert cost.peak_bytes != cost.peak_bytes or 60 * 2**20 < cost.peak_bytes < 128 * 2**20
    _, small = measured(Unchanged(), MLP.build(), MLP.expert().state, TASK, [])
    assert small.peak_bytes != small.peak_bytes or small.peak_bytes < 8 * 2**20
