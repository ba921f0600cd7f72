"""Uniform importance: ones, for no data and no memory."""

from collections.abc import Iterator

import pytest
import torch

from dua_lightning.importance import Uniform
from dua_lightning.tasks import Batch
from tests.helpers.nets import CASES, Case, equal, untouched


def unreadable() -> Iterator[Batch]:
    raise AssertionError("the data were read")
    yield


@pytest.mark.parametrize("case", CASES)
def test_every_weight_of_the_body_matters_one_and_the_data_are_unread(case: Case) -> None:
    net, expert = case.build(), case.expert()
    with untouched(net, expert.state):
        omega = Uniform()(net, expert, unreadable())
    body = [name for name, _ in net.named_parameters(remove_duplicate=False) if not name.startswith("head.")]
    equal(omega, {name: torch.ones_like(expert.state[name]) for name in body})
    assert all(o.untyped_storage().nbytes() == o.element_size() for o in omega.values())
    assert Uniform().needs_labels is False
