"""The server's data of a task, and the union of all tasks."""

import torch

from dua_lightning.data.images import Images, Loader, Passes
from dua_lightning.data.server import ServerTask, union
from dua_lightning.tasks import Task
from tests.helpers import tiny


def labelled(batches: Loader | Passes) -> tuple[torch.Tensor, torch.Tensor]:
    parts = list(batches)
    return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])


def is_all_of(batches: Loader | Passes, images: Images) -> bool:
    x, y = labelled(batches)
    return torch.equal(x, images.inputs()) and torch.equal(y, images.labels)


def test_the_two_sides_of_a_task_are_disjoint_and_complete():
    for of_task, task in zip(tiny.benchmark().server, tiny.tasks(), strict=True):
        assert of_task.task == task
        train, validation = set(of_task.train.sources.tolist()), set(of_task.validation.sources.tolist())
        images = tiny.pictures()
        mine = (images.labels >= task.classes.start) & (images.labels < task.classes.stop)
        assert not train & validation
        assert train | validation == set(images.sources[mine].tolist())
        assert of_task.train.labels.bincount()[task.classes].tolist() == [8, 8]
        assert of_task.validation.labels.bincount()[task.classes].tolist() == [2, 2]


def test_validation_and_measuring_read_all_of_their_side_in_order():
    data = tiny.benchmark().server[1]
    for _ in range(2):
        assert is_all_of(data.val_dataloader(), data.validation)
        assert is_all_of(data.test_dataloader(), data.validation)
        assert is_all_of(data.predict_dataloader(), data.train)


def test_training_reads_batches_of_the_training_side_alone_in_a_new_order_each_pass():
    data = tiny.benchmark().server[0]
    batches = Passes(data.train_dataloader())
    passes = [labelled(batches)[0] for _ in range(2)]
    assert [len(x) for x, _ in batches] == [4] * 4
    for x in passes:
        assert not torch.equal(x, data.train.inputs())
        assert sorted(x.flatten(1).tolist()) == sorted(data.train.inputs().flatten(1).tolist())
    assert not torch.equal(*passes)


def test_each_loader_starts_the_training_order_again():
    data = tiny.benchmark().server[0]
    first = labelled(data.train_dataloader())[0]
    assert torch.equal(labelled(data.train_dataloader())[0], first)


def test_seed_and_task_each_change_the_training_order():
    images = tiny.pictures(1)

    def order(name: str, seed: int) -> list[int]:
        data = ServerTask(Task(name, slice(0, 2)), images, images, 5, seed)
        return labelled(data.train_dataloader())[0].flatten(1)[:, 0].tolist()

    assert order("a", 0) == order("a", 0)
    assert order("a", 0) != order("a", 1)
    assert order("a", 0) != order("b", 0)


def test_only_training_reads_augmented_images_in_the_same_order():
    plain = tiny.benchmark().server[0]
    augmented = ServerTask(plain.task, plain.train, plain.validation, 4, plain.seed, augment=True)
    for data in (augmented, union([augmented])):
        x, _ = labelled(data.train_dataloader())
        assert is_all_of(data.val_dataloader(), plain.validation)
        assert is_all_of(data.predict_dataloader(), plain.train)
        originals = plain.train.inputs()
        assert not all(any(torch.equal(image, original) for original in originals) for image in x)
        assert all(any(torch.equal(image, o) or torch.equal(image.flip(2), o) for o in originals) for image in x)
    assert torch.equal(labelled(augmented.train_dataloader())[1], labelled(plain.train_dataloader())[1])


def test_the_union_has_the_columns_and_both_sides_of_every_task():
    server = tiny.benchmark().server
    joint = union(server)
    assert joint.task.classes == slice(0, 6)
    assert tiny.equal(joint.train, Images.cat([part.train for part in server]))
    assert tiny.equal(joint.validation, Images.cat([part.validation for part in server]))
    assert {len(x) for x, _ in joint.train_dataloader()} == {4}


def test_the_union_of_later_tasks_starts_at_their_first_column():
    assert union(tiny.benchmark().server[1:]).task.classes == slice(2, 6)
