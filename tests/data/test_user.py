"""A user's data: two disjoint halves, drawn anew at each iteration, with or without labels."""

import itertools
import weakref
from dataclasses import replace

import pytest
import torch

from dua_lightning.data import user as module
from dua_lightning.data.images import Images
from dua_lightning.data.user import UserData
from tests.helpers import tiny

ITERATIONS = range(1, 6)


def user(labelled: bool = True, name: str = "someone", seed: int = 0) -> UserData:
    images = tiny.pictures(2, per_class=10)
    return UserData(name, [images[:20], images[20:]], tiny.tasks(2), seed, batch_size=3, labelled=labelled)


def halves(data: UserData) -> list[Images]:
    return [*data.evaluation, *data.validation]


@pytest.mark.parametrize("iteration", ITERATIONS)
def test_the_halves_of_each_task_are_disjoint_and_complete(iteration: int):
    data = user().draw(iteration)
    for images, evaluation, validation in zip(data.images, data.evaluation, data.validation, strict=True):
        sides = [set(half.sources.tolist()) for half in (evaluation, validation)]
        assert not sides[0] & sides[1]
        assert sides[0] | sides[1] == set(images.sources.tolist())
        assert torch.equal(evaluation.labels.bincount(), validation.labels.bincount())


def test_copies_of_one_picture_stay_in_one_half():
    images = tiny.pictures(1)
    twice = Images.cat([images, images])
    for iteration in ITERATIONS:
        data = UserData("someone", [twice], tiny.tasks(1), 0, iteration)
        assert not set(data.evaluation[0].sources.tolist()) & set(data.validation[0].sources.tolist())
        assert len(data.evaluation[0]) == len(data.validation[0]) == 20


def test_every_iteration_draws_other_halves_for_every_task():
    draws = [user().draw(i) for i in ITERATIONS]
    for a, b in itertools.combinations(draws, 2):
        for task in range(2):
            assert not torch.equal(a.evaluation[task].sources, b.evaluation[task].sources)


def test_the_same_iteration_has_the_same_bits_whatever_was_drawn_before():
    direct, after_others = user().draw(2), user().draw(4).draw(1).draw(2)
    assert all(tiny.equal(a, b) for a, b in zip(halves(direct), halves(after_others), strict=True))
    for a, b in zip(direct.train_dataloader(), after_others.train_dataloader(), strict=True):
        assert all(torch.equal(x, z) for (x, _), (z, _) in zip(a, b, strict=True))


def test_a_user_starts_at_iteration_1():
    assert all(tiny.equal(a, b) for a, b in zip(halves(user()), halves(user().draw(1)), strict=True))


def test_seed_and_name_each_change_the_draw():
    draws = [user(), user(seed=1), user(name="someone else")]
    for a, b in itertools.combinations(draws, 2):
        assert not torch.equal(a.evaluation[0].sources, b.evaluation[0].sources)


def test_drawing_keeps_who_the_user_is():
    drawn = user(labelled=False).draw(3)
    assert (drawn.user, drawn.labelled, drawn.batch_size, drawn.iteration) == ("someone", False, 3, 3)


@pytest.mark.parametrize("labelled", [True, False])
def test_only_the_validation_half_loses_its_labels(labelled: bool):
    data = user(labelled)
    for loaders in (data.train_dataloader(), data.predict_dataloader()):
        assert all((y is not None) == labelled for batches in loaders for _, y in batches)
    for batches, images in zip(data.test_dataloader(), data.evaluation, strict=True):
        assert torch.equal(torch.cat([y for _, y in batches]), images.labels)


def test_whether_labels_are_seen_changes_no_image():
    with_labels, without = user(True), user(False)
    for name in ("train_dataloader", "predict_dataloader", "test_dataloader"):
        for a, b in zip(getattr(with_labels, name)(), getattr(without, name)(), strict=True):
            assert all(torch.equal(x, z) for (x, _), (z, _) in zip(a, b, strict=True))


def test_psi_reads_the_validation_half_in_order_and_evaluation_the_other():
    data = user()
    for loaders, sides in ((data.predict_dataloader(), data.validation), (data.test_dataloader(), data.evaluation)):
        for batches, images in zip(loaders, sides, strict=True):
            for _ in range(2):
                assert torch.equal(torch.cat([x for x, _ in batches]), images.inputs())


def test_phi_reads_small_batches_of_the_validation_half_in_a_new_order_each_pass():
    data = user()
    for batches, images in zip(data.train_dataloader(), data.validation, strict=True):
        passes = [list(batches) for _ in range(2)]
        assert [len(x) for x, _ in passes[0]] == [3, 3, 4]
        orders = [torch.cat([x for x, _ in one]).flatten(1).tolist() for one in passes]
        assert orders[0] != orders[1]
        assert sorted(orders[0]) == sorted(orders[1]) == sorted(images.inputs().flatten(1).tolist())


@pytest.mark.parametrize("half", ["predict_dataloader", "test_dataloader"])
def test_images_are_made_once_for_a_draw_and_anew_where_one_was_written_to(half: str):
    data = user()
    first, again = ([x for loader in getattr(data, half)() for x, _ in loader] for _ in range(2))
    assert all(x.data_ptr() == y.data_ptr() for x, y in zip(first, again, strict=True))
    before = first[0].clone()
    first[0].add_(1)
    assert torch.equal(next(iter(getattr(data, half)()[0]))[0], before)
    assert getattr(data.draw(2), half)()[0] is not getattr(data, half)()[0]


def test_evaluation_images_that_are_too_large_to_keep_are_the_same(monkeypatch: pytest.MonkeyPatch):
    kept = [x for loader in user().test_dataloader() for x, _ in loader]
    monkeypatch.setattr(module, "KEEP_BYTES", 0)
    data = user()
    read, again = ([x for loader in data.test_dataloader() for x, _ in loader] for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(kept, read, strict=True))
    assert not any(x.data_ptr() == y.data_ptr() for x, y in zip(read, again, strict=True))
    assert data.test_images() is None


def test_the_evaluation_images_of_a_draw_go_with_it():
    data = user().draw(2)
    images = weakref.ref(next(iter(data.test_dataloader()[0]))[0]._base)
    assert images() is not None
    data = data.draw(3)
    assert images() is None


def test_all_tasks_lie_in_one_tensor_where_they_are_small_and_alike():
    data = user()
    images = data.test_images()
    assert images is not None
    x, y = images.rows(slice(None))
    assert torch.equal(x, torch.cat([half.inputs() for half in data.evaluation]))
    assert torch.equal(y, torch.cat([half.labels for half in data.evaluation]))
    assert [(place.start, place.stop) for place in images.places] == [(0, 10), (10, 20)]
    small, large = tiny.pictures(1, per_class=10), tiny.pictures(1, per_class=10)
    mixed = UserData("someone", [replace(small, crop=2), large], tiny.tasks(2), 0)
    assert mixed.test_images() is None
    assert next(iter(mixed.test_dataloader()[0]))[0].shape[2:] == (2, 2)


def test_the_recipe_tells_users_seeds_draws_images_and_labels_apart_and_nothing_else():
    one = user()
    assert one.recipe() == user().recipe() == one.draw(4).draw(1).recipe()
    others = [user(labelled=False), user(name="someone else"), user(seed=1), one.draw(2)]
    others.append(UserData("someone", one.images[::-1], tiny.tasks(2), 0, batch_size=3))
    others.append(UserData("someone", one.images, tiny.tasks(2), 0, batch_size=4))
    recipes = [str(data.recipe()) for data in (one, *others)]
    assert len(set(recipes)) == len(recipes)
