"""T3A against its loop, and what it leaves alone."""

import pytest
import torch
from torch import nn

from dua_lightning.adapt import T3A
from dua_lightning.errors import InputError
from dua_lightning.evaluation import accuracy
from dua_lightning.tasks import Batch
from tests.adapt.users import EVEN, SKEWED, TRAINED, images, scores, trained
from tests.helpers.nets import BATCH_NORM, PLAIN, TASK, batches, close, equal, untouched
from tests.reference.t3a_loop import t3a


@pytest.mark.parametrize("filter_k", [1, 3, None])
def test_the_templates_are_those_of_the_loop(filter_k: int | None) -> None:
    net, state = TRAINED.build().eval(), trained()
    x, _ = images(40, SKEWED)
    with untouched(net, state):
        after = T3A(filter_k)(net, state, TASK, batches(x, None, 7))
    net.load_state_dict(state)
    features = net.eval().body(x).detach()
    rows, biases = state["head.weight"][TASK.classes], state["head.bias"][TASK.classes]
    expected = torch.tensor(t3a(rows.tolist(), biases.tolist(), features.tolist(), filter_k), dtype=torch.float64)
    close(after["head.weight"][TASK.classes], expected * rows.norm(dim=1).mean())
    assert after["head.bias"][TASK.classes].tolist() == [0, 0, 0]
    outside = [0, 1, 5]
    for name in state:
        equal(
            after[name][outside] if "head" in name else after[name],
            state[name][outside] if "head" in name else state[name],
        )


def test_labels_are_never_read_and_a_head_without_bias_will_do() -> None:
    x = images(9)[0]
    equal(*(T3A()(TRAINED.build(), trained(), TASK, [(x, y)]) for y in (object(), None)))
    net = BATCH_NORM.build()
    net.head = nn.Linear(5, 6, bias=False).double()
    after = T3A()(net, net.state_dict(), TASK, [(BATCH_NORM.images(5), None)])
    assert after["head.weight"].isfinite().all()


def test_what_cannot_be_used_is_an_input_error() -> None:
    with pytest.raises(InputError, match="keeps 1 or more supports of a class, got filter_k=0"):
        T3A(0)
    with pytest.raises(InputError, match="T3A needs a network whose head is a linear layer, and"):
        T3A().check(PLAIN.build())


def test_it_does_no_harm_where_nothing_has_shifted() -> None:
    before, after = scores(T3A(), EVEN, shifted=False)
    assert after > before - 1.5


def test_it_helps_where_the_head_is_off() -> None:
    net, state = TRAINED.build(), trained()
    stream = torch.Generator().manual_seed(1)
    off = state["head.weight"] + torch.randn(6, 12, generator=stream, dtype=torch.float64)
    x, _ = images(300, seed=5)
    after = T3A()(net, state | {"head.weight": off}, TASK, batches(x, None, 20))
    test: list[Batch] = [images(1000, seed=6)]
    assert accuracy(net, after, TASK, test) > accuracy(net, state | {"head.weight": off}, TASK, test) + 10
