"""Gram matrices of layers' inputs."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from dua_lightning.errors import InputError
from dua_lightning.importance import Gram
from dua_lightning.nets import Network
from tests.helpers.nets import BATCH_NORM, CASES, CLASSES, MLP, TIED, Case, batches, close, equal, labels, untouched
from tests.reference.gram_loop import gram

CONVOLUTIONS = {
    "depthwise": ((4, 5, 5), lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4)),
    "groups of several channels": ((4, 5, 5), lambda: nn.Conv2d(4, 6, (3, 2), groups=2, stride=(1, 2))),
    "dilated": ((2, 6, 6), lambda: nn.Conv2d(2, 3, 3, dilation=(1, 2), padding="same")),
    "circular": ((2, 4, 4), lambda: nn.Conv2d(2, 3, 3, padding=(1, 2), padding_mode="circular")),
    "in one dimension": ((3, 7), lambda: nn.Conv1d(3, 2, 3, stride=2, padding=1)),
    "in three dimensions": ((2, 3, 3, 3), lambda: nn.Conv3d(2, 2, (1, 2, 2), groups=2)),
}


def convolution(shape: tuple[int, ...], make: Callable[[], nn.Module]) -> Case:
    width = make()(torch.zeros(1, *shape)).numel()
    return Case("", shape, lambda _: Network(nn.Sequential(make(), nn.Flatten()), nn.Linear(width, CLASSES)))


EVERY = [
    *CASES,
    *(pytest.param(convolution(*of), id=name) for name, of in CONVOLUTIONS.items()),
    pytest.param(
        Case("", (3, 4), lambda _: Network(nn.Sequential(nn.Linear(4, 2), nn.Flatten()), nn.Linear(6, CLASSES))),
        id="a linear layer at three positions",
    ),
]


@pytest.mark.parametrize("case", EVERY)
def test_it_is_the_loop_over_outputs(case: Case) -> None:
    x, net, expert = case.images(3), case.build(), case.expert()
    with untouched(net, expert.state):
        found = Gram()(net, expert, batches(x, labels(3), 2))
    expected = gram(case.build(), expert, x)
    close({name: found[name] for name in expected}, expected)
    # Another name of a tied weight has the same matrix.
    assert found.keys() - expected.keys() == ({"body.second.weight"} if case is TIED else set())
    if case is TIED:
        equal(found["body.second.weight"], found["body.first.weight"])


def test_neither_batches_nor_their_order_matter() -> None:
    x, expert = BATCH_NORM.images(5), BATCH_NORM.expert()
    whole = Gram()(BATCH_NORM.build(), expert, [(x, None)])
    close(Gram()(BATCH_NORM.build(), expert, batches(x.flip(0), None, 2)), whole)
    close(Gram()(BATCH_NORM.build(), expert, [(torch.cat([x, x]), None)]), whole)


def test_no_image_is_an_input_error() -> None:
    with pytest.raises(InputError, match="at least one image of task middle"):
        Gram()(MLP.build(), MLP.expert(), [])
