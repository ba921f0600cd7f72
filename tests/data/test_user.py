"""A user's data: two disjoint halves, drawn anew at each iteration, with or without labels."""

import itertools
import weakref
from dataclasses import replace

import pytest
import torch

from dua_lightning.data import user as module
from dua_lightning.data.images import Images, Passes
from dua_lightning.data.server import union
from dua_lightning.data.user import UserData
from dua_lightning.nets import mlp
from dua_lightning.training import Training
from tests.helpers import tiny
from tests.helpers.training import training

ITERATIONS = range(1, 6)
A, B = tiny.tasks(2)


def user(labelled: bool = True, name: str = "someone", seed: int = 0) -> UserData:
    images = tiny.pictures(2, per_class=10)
    return UserData(name, [images[:20], images[20:]], tiny.tasks(2), seed, batch_size=3, labelled=labelled)


def halves(data: UserData) -> list[Images]:
    """Both halves of each task."""
    return [half for task in data.tasks for half in (data.of(task).evaluation, data.of(task).validation)]


@pytest.mark.parametrize("iteration", ITERATIONS)
def test_the_halves_of_each_task_are_disjoint_and_complete(iteration: int):
    data = user().draw(iteration)
    for images, task in zip(data.images, data.tasks, strict=True):
        evaluation, validation = data.of(task).evaluation, data.of(task).validation
        sides = [set(half.sources.tolist()) for half in (evaluation, validation)]
        assert not sides[0] & sides[1]
        assert sides[0] | sides[1] == set(images.sources.tolist())
        assert torch.equal(evaluation.labels.bincount(), validation.labels.bincount())


def test_all_tasks_together_have_the_halves_of_each():
    data = user().draw(3)
    for half in ("evaluation", "validation"):
        parts = [getattr(data.of(task), half) for task in data.tasks]
        assert tiny.equal(getattr(data, half), Images.cat(parts))


def test_copies_of_one_picture_stay_in_one_half():
    images = tiny.pictures(1)
    twice = Images.cat([images, images])
    for iteration in ITERATIONS:
        data = UserData("someone", [twice], tiny.tasks(1), 0, iteration)
        assert not set(data.evaluation.sources.tolist()) & set(data.validation.sources.tolist())
        assert len(data.evaluation) == len(data.validation) == 20


def test_every_iteration_draws_other_halves_for_every_task():
    draws = [user().draw(i) for i in ITERATIONS]
    for a, b in itertools.combinations(draws, 2):
        for task in (A, B):
            assert not torch.equal(a.of(task).evaluation.sources, b.of(task).evaluation.sources)


def test_the_same_iteration_has_the_same_bits_whatever_was_drawn_before():
    direct, after_others = user().draw(2), user().draw(4).draw(1).draw(2)
    assert all(tiny.equal(a, b) for a, b in zip(halves(direct), halves(after_others), strict=True))
    for task in (A, B):
        pairs = zip(direct.of(task).train_dataloader(), after_others.of(task).train_dataloader(), strict=True)
        assert all(torch.equal(x, z) for (x, _), (z, _) in pairs)


def test_a_user_starts_at_iteration_1():
    assert all(tiny.equal(a, b) for a, b in zip(halves(user()), halves(user().draw(1)), strict=True))


def test_seed_and_name_each_change_the_draw():
    draws = [user(), user(seed=1), user(name="someone else")]
    for a, b in itertools.combinations(draws, 2):
        assert not torch.equal(a.of(A).evaluation.sources, b.of(A).evaluation.sources)


def test_drawing_keeps_who_the_user_is():
    drawn = user(labelled=False).draw(3)
    for data in (drawn, drawn.of(B)):
        assert (data.user, data.labelled, data.batch_size, data.iteration) == ("someone", False, 3, 3)
    assert drawn.of(B).tasks == [B]


@pytest.mark.parametrize("labelled", [True, False])
def test_only_the_validation_half_loses_its_labels(labelled: bool):
    data = user(labelled)
    for name in ("train_dataloader", "val_dataloader", "predict_dataloader"):
        assert all((y is not None) == labelled for _, y in getattr(data, name)())
    assert torch.equal(torch.cat([y for _, y in data.test_dataloader()]), data.evaluation.labels)


def test_whether_labels_are_seen_changes_no_image():
    with_labels, without = user(True), user(False)
    for name in ("train_dataloader", "predict_dataloader", "test_dataloader"):
        pairs = zip(getattr(with_labels, name)(), getattr(without, name)(), strict=True)
        assert all(torch.equal(x, z) for (x, _), (z, _) in pairs)


def test_psi_reads_the_validation_half_in_order_and_evaluation_the_other():
    data = user().of(B)
    pairs = ((data.validation_batches, data.validation), (data.evaluation_batches, data.evaluation))
    for batches, half in pairs:
        for _ in range(2):
            assert torch.equal(torch.cat([x for x, _ in batches()]), half.inputs())


def test_phi_reads_small_batches_of_the_validation_half_in_a_new_order_each_pass():
    data = user().of(A)
    batches = data.adaptation_batches()
    passes = [list(batches) for _ in range(2)]
    assert [len(x) for x, _ in passes[0]] == [3, 3, 4]
    orders = [torch.cat([x for x, _ in one]).flatten(1).tolist() for one in passes]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(data.validation.inputs().flatten(1).tolist())
    assert torch.cat([x for x, _ in Passes(data.train_dataloader())]).flatten(1).tolist() == orders[0]
    assert torch.cat([x for x, _ in data.adaptation_batches()]).flatten(1).tolist() == orders[0]


@pytest.mark.parametrize("half", ["validation_batches", "evaluation_batches"])
def test_images_are_made_once_for_a_draw_and_anew_where_one_was_written_to(half: str):
    data = user().of(A)
    first, again = ([x for x, _ in getattr(data, half)()] for _ in range(2))
    assert all(x.data_ptr() == y.data_ptr() for x, y in zip(first, again, strict=True))
    before = first[0].clone()
    first[0].add_(1)
    assert torch.equal(next(iter(getattr(data, half)()))[0], before)


def test_images_that_are_too_large_to_keep_are_the_same(monkeypatch: pytest.MonkeyPatch):
    kept = [x for x, _ in user().of(A).evaluation_batches()]
    monkeypatch.setattr(module, "KEEP_BYTES", 0)
    data = user().of(A)
    read, again = ([x for x, _ in data.evaluation_batches()] for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(kept, read, strict=True))
    assert not any(x.data_ptr() == y.data_ptr() for x, y in zip(read, again, strict=True))


def test_the_images_of_a_draw_go_with_it():
    data = user().draw(2)
    images = weakref.ref(next(iter(data.of(A).evaluation_batches()))[0])
    assert images() is not None
    data = data.draw(3)
    assert images() is None


def test_a_trainer_takes_a_users_data_as_they_are():
    data, net, server = user(), mlp(tiny.SHAPE, 4, 0, width=8), tiny.benchmark(2).server
    for of, task in ((data, union(server)), (data.of(A), server[0])):
        module, trainer = (
            Training().module(net, task),
            training(max_epochs=1).trainer(logger=False, enable_checkpointing=False),
        )
        trainer.fit(module, datamodule=of)
        for stage in ("validate", "test"):
            (found,) = getattr(trainer, stage)(module, datamodule=of, verbose=False)
            assert 0 <= next(iter(found.values())) <= 100
        assert sum(map(len, trainer.predict(module, datamodule=of))) == len(of.validation)


def test_the_recipe_tells_users_seeds_draws_images_and_labels_apart_and_nothing_else():
    one = user()
    assert one.recipe() == user().recipe() == one.draw(4).draw(1).recipe()
    others = [user(labelled=False), user(name="someone else"), user(seed=1), one.draw(2)]
    others.append(UserData("someone", one.images[::-1], tiny.tasks(2), 0, batch_size=3))
    others.append(UserData("someone", one.images, tiny.tasks(2), 0, batch_size=4))
    recipes = [str(data.recipe()) for data in (one, *others)]
    assert len(set(recipes)) == len(recipes)


def mixed(iteration: int = 1) -> UserData:
    """Task a: 4 labelled, 3 for evaluation, 2 for user-validation, 5 unlabelled; task b: unlabelled; 6 of no task."""
    images = tiny.pictures(2, per_class=10)
    half = torch.tensor([0, 0, 1, 1, 1, 2, 2] + [0] * 5 + [0, 0], dtype=torch.uint8)
    a, b, c = images[:14], images[20:26], images[30:36]
    a = replace(a, labels=a.labels.clone())
    a.labels[[0, 1, 12, 13]] = torch.tensor([0, 0, 1, 1])
    a.labels[7:12] = -1
    b, c = (replace(part, labels=torch.full((6,), -1)) for part in (b, c))
    return UserData(
        "ann", [a, b], tiny.tasks(2), 0, iteration, halves=[half, torch.zeros(6, dtype=torch.uint8)], unsorted=c
    )


def test_images_stay_in_the_half_that_they_are_for_and_unlabelled_ones_are_never_scored_on():
    seen = set()
    for n in ITERATIONS:
        data = mixed(n)
        a, b = data.of(A), data.of(B)
        evaluation, validation = a.evaluation.sources.tolist(), a.validation.sources.tolist()
        assert sorted([*evaluation, *validation]) == list(range(14))
        assert {2, 3, 4} <= set(evaluation)
        assert {5, 6, 7, 8, 9, 10, 11} <= set(validation)
        assert len(evaluation) == 5
        assert (a.evaluation.labels >= 0).all()
        seen.add(tuple(evaluation))
        assert len(b.evaluation) == 0
        assert b.validation.sources.tolist() == list(range(20, 26))
        # Those without a task come behind those of all tasks.
        assert data.validation.sources[-6:].tolist() == list(range(30, 36))
        assert data.unscored == [B]
        assert a.unscored == []
    assert len(seen) > 1


def test_labels_are_seen_only_where_every_image_has_one():
    data = mixed()
    assert not data.labelled
    for part in (data, data.of(A), data.of(B)):
        assert all(y is None for _, y in part.train_dataloader())
    assert all(y is not None for _, y in data.of(A).test_dataloader())


def test_images_get_tasks_and_keep_their_halves():
    data = mixed(3)
    found = data.with_tasks(torch.tensor([1, 0, 1, 1, 0, 1]))
    assert found.unsorted is None
    assert tiny.equal(found.of(A).evaluation, data.of(A).evaluation)
    for task, new in ((A, [31, 34]), (B, [30, 32, 33, 35])):
        before, after = data.of(task).validation.sources.tolist(), found.of(task).validation.sources.tolist()
        assert after == [*before, *new]


def test_a_task_of_which_no_class_has_two_images_is_not_scored():
    images = tiny.pictures(1)[[0, 10]]
    data = UserData("ann", [images], tiny.tasks(1), 0)
    assert data.unscored == [A]
    assert len(data.validation) == 2


def test_the_recipe_tells_halves_and_images_without_a_task_apart():
    one = mixed()
    plain = UserData("ann", one.images, one.tasks, 0)
    assert one.recipe().keys() - plain.recipe().keys() == {"halves", "unsorted"}
    rest = {"halves": one.halves, "unsorted": one.unsorted}
    others = [UserData("ann", one.images, one.tasks, 0, **{**rest, name: None}) for name in rest]
    others.append(UserData("ann", one.images, one.tasks, 0, **{**rest, "unsorted": one.unsorted[:3]}))
    assert len({str(data.recipe()) for data in (one, plain, *others)}) == 5
