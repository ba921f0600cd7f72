"""Users as the pictures come: each has exactly their own, with labels, without, and without tasks."""

from dataclasses import replace

import pytest
import torch

from dua_lightning.data.own_users import own_users
from dua_lightning.data.pool import Pool
from dua_lightning.data.splits import DRAWN, FOR_EVALUATION, FOR_VALIDATION
from dua_lightning.errors import InputError
from tests.data.pools import pool


def test_every_user_has_exactly_their_own_pictures() -> None:
    given = pool(users=("ann", "bob"))
    found = own_users(1, given, input_size=8)
    assert [user.user for user in found.users] == ["ann", "bob"]
    for place, user in enumerate(found.users):
        owned = {source for images in user.images for source in images.sources.tolist()}
        assert owned == set((given.owners == place).nonzero()[:, 0].tolist())
        assert not user.unscored
        assert user.labelled


def without_labels(given: Pool, task: int) -> Pool:
    """Bob's pictures have no labels, and with -1 no task either."""
    bobs = given.owners == 1
    of_task = given.places.masked_fill(bobs, -1) if task < 0 else given.places
    return replace(given, labels=given.labels.masked_fill(bobs & (of_task == task), -1), of_task=of_task)


@pytest.mark.parametrize("task", [-1, 0, 1])
def test_pictures_without_labels_or_tasks_are_their_users_too(task: int) -> None:
    given = pool(users=("ann", "bob"))
    ann, bob = own_users(1, without_labels(given, task), input_size=8).users
    plain = own_users(1, given, input_size=8).users
    assert ann.recipe() == plain[0].recipe()
    assert bob.recipe() != plain[1].recipe()
    assert not bob.labelled
    if task < 0:
        assert bob.unsorted is not None
        assert set(bob.unsorted.sources.tolist()) == set((given.owners == 1).nonzero()[:, 0].tolist())
        assert [len(images) for images in bob.images] == [0, 0]
        assert bob.unscored == list(given.tasks)
    else:
        assert bob.unsorted is None
        assert [images.sources.tolist() for images in bob.images] == [i.sources.tolist() for i in plain[1].images]
        assert bob.unscored == [given.tasks[task]]


def test_the_halves_that_a_pool_names_are_the_users() -> None:
    given = pool(users=("ann", "bob"))
    halves = torch.full_like(given.side, DRAWN)
    halves[(given.owners == 0) & (given.labels == 1)] = FOR_EVALUATION
    halves[(given.owners == 0) & (given.labels == 4)] = FOR_VALIDATION
    ann, bob = own_users(1, replace(given, halves=halves), input_size=8).users
    for n in (1, 2):
        assert 1 not in ann.draw(n).validation.labels
        assert 4 not in ann.draw(n).evaluation.labels
        assert (ann.draw(n).evaluation.labels == 1).sum() == (ann.draw(n).validation.labels == 4).sum() == 10
    assert bob.recipe()["images"] == own_users(1, given, input_size=8).users[1].recipe()["images"]


def test_pictures_without_owners_are_refused() -> None:
    with pytest.raises(InputError, match="benchmark catprior"):
        own_users(1, pool(), input_size=8)
