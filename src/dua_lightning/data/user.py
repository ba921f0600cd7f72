"""A user's data, which never leave the device, as a Lightning data module."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, cast

import torch
from lightning import LightningDataModule
from torch import Tensor

from dua_lightning.data.images import EVALUATION_BATCH, BatchOrder, Images, Loader, Passes, StreamName, loader
from dua_lightning.data.splits import DRAWN, FOR_EVALUATION, FOR_VALIDATION, divisible, split
from dua_lightning.streams import generator
from dua_lightning.tasks import Batch, Task

KEEP_BYTES = 256 * 2**20
"""Images of one half up to this size, as the network sees them, are kept in memory: every row of a run reads them."""


class UserData(LightningDataModule):
    """One user's images of some tasks: half for evaluation and half (user-validation) for psi and phi.

    Lightning's Trainer takes it as it is: `fit` reads the user-validation images in small batches and a new order each
    epoch, `validate` and `predict` read them in a fixed order, `test` reads the evaluation images. All tasks' images
    come together; `of` gives the data of a single task.

    Each Monte-Carlo iteration draws the halves anew, from the stream `(seed, "user", user, task, iteration)`; no source
    picture is in both. Images without a label are always for user-validation, and so are those of a task of which no
    class has two pictures. So are images whose task is not known, which are of none until `with_tasks`.

    Args:
        user: The user's name.
        images: The images of each task, both halves together.
        tasks: The tasks.
        seed: The run's seed.
        iteration: The Monte-Carlo iteration, from 1.
        batch_size: Images of a batch in which phi takes a step.
        labelled: Whether labels of user-validation images may be seen; on a real device they mostly may not. They are
            not where some of these images have none.
        halves: For each task `(n,)` uint8 with one of `DRAWN`, `FOR_EVALUATION` and `FOR_VALIDATION` for each image; by
            default all are drawn. Images for evaluation have labels.
        unsorted: Images whose task is not known, without labels, if there are any.
    """

    def __init__(
        self,
        user: str,
        images: Sequence[Images],
        tasks: Sequence[Task],
        seed: int,
        iteration: int = 1,
        batch_size: int = 20,
        labelled: bool = True,
        halves: Sequence[Tensor] | None = None,
        unsorted: Images | None = None,
    ) -> None:
        super().__init__()
        self.user = user
        self.images = images
        self.tasks = tasks
        self.seed = seed
        self.iteration = iteration
        self.batch_size = batch_size
        self.labelled = labelled and unsorted is None and all((part.labels >= 0).all() for part in images)
        self.halves = halves
        self.unsorted = unsorted

    def draw(self, iteration: int) -> "UserData":
        """Give the same user with the halves of another draw.

        Args:
            iteration: The Monte-Carlo iteration, from 1.

        Returns:
            The user's data in those halves.
        """
        return self._with(iteration=iteration)

    def with_tasks(self, places: Tensor) -> "UserData":
        """Give the same user with every image of `unsorted` at a task.

        Args:
            places: `(n,)` the place of each image's task.

        Returns:
            The user's data, in the same halves.
        """
        assert self.unsorted is not None
        found = [self.unsorted[places == place] for place in range(len(self.tasks))]
        halves = self.halves and [
            torch.cat([half, torch.full((len(new),), FOR_VALIDATION, dtype=half.dtype)])
            for half, new in zip(self.halves, found, strict=True)
        ]
        images = [Images.cat([old, new]) for old, new in zip(self.images, found, strict=True)]
        return self._with(images=images, halves=halves, unsorted=None)

    def of(self, task: Task) -> "UserData":
        """Give the data of one task, with the same halves.

        Args:
            task: One of the tasks.

        Returns:
            The user's data of that task.
        """
        return self._parts[self.tasks.index(task)]

    @cached_property
    def _parts(self) -> list["UserData"]:
        return [
            self._with(images=[images], tasks=[task], halves=self.halves and [self.halves[place]], unsorted=None)
            for place, (task, images) in enumerate(zip(self.tasks, self.images, strict=True))
        ]

    def _with(self, **changes: Any) -> "UserData":
        names = ("user", "images", "tasks", "seed", "iteration", "batch_size", "labelled", "halves", "unsorted")
        return UserData(**{name: changes.get(name, getattr(self, name)) for name in names})

    @cached_property
    def _halves(self) -> tuple[Images, Images]:
        pairs = [self._split(place) for place in range(len(self.tasks))]
        evaluation, validation = zip(*pairs, strict=True)
        return Images.cat(evaluation), Images.cat([*validation, *([] if self.unsorted is None else [self.unsorted])])

    def _split(self, place: int) -> tuple[Images, Images]:
        """The halves of one task."""
        images, task = self.images[place], self.tasks[place]
        half = torch.full((len(images),), DRAWN) if self.halves is None else self.halves[place]
        drawn = (half == DRAWN) & (images.labels >= 0)
        parts = images[:0], images[drawn]
        if divisible(images[drawn]):
            parts = split(images[drawn], 0.5, generator(self.seed, "user", self.user, task.name, self.iteration))
        for_evaluation = half == FOR_EVALUATION
        evaluation = Images.cat([parts[0], images[for_evaluation]])
        return evaluation, Images.cat([parts[1], images[~drawn & ~for_evaluation]])

    @property
    def unscored(self) -> list[Task]:
        """The tasks of which there are no labelled images to measure accuracies on; such a user is not scored."""
        return [task for task in self.tasks if not len(self.of(task).evaluation)]

    @property
    def evaluation(self) -> Images:
        """The half that accuracies are measured on."""
        return self._halves[0]

    @property
    def validation(self) -> Images:
        """The user-validation half, for psi and phi."""
        return self._halves[1]

    def recipe(self) -> dict[str, Any]:
        """Describe everything in the data, and in their draw, that shapes priors and results.

        Returns:
            Plain values by name; images by their digests.
        """
        # Users of whom everything is drawn have the recipes that they had before others were known.
        further = {} if self.halves is None else {"halves": [half.numpy().tobytes().hex() for half in self.halves]}
        if self.unsorted is not None:
            further["unsorted"] = [self.unsorted.digest()]
        return {
            **further,
            "user": self.user,
            "tasks": [[task.name, repr(task.classes)] for task in self.tasks],
            "images": [images.digest() for images in self.images],
            "batch_size": self.batch_size,
            "labelled": self.labelled,
            "seed": self.seed,
            "iteration": self.iteration,
        }

    def train_dataloader(self) -> Loader:
        """User-validation images in small batches, in an order of each epoch's own."""
        names = (task.name for task in self.tasks)
        stream = cast(StreamName, (self.seed, "adapt", self.user, *names, self.iteration))
        return loader(self.validation, BatchOrder(len(self.validation), self.batch_size, stream), self.labelled)

    def val_dataloader(self) -> Loader:
        """User-validation images in a fixed order."""
        return _in_order(self.validation, self.labelled)

    def predict_dataloader(self) -> Loader:
        """User-validation images in a fixed order."""
        return _in_order(self.validation, self.labelled)

    def test_dataloader(self) -> Loader:
        """Evaluation images in a fixed order."""
        return _in_order(self.evaluation, True)

    def adaptation_batches(self) -> Passes:
        """Give the batches of `train_dataloader`, for phi.

        Returns:
            Batches in a new order for each pass; the first pass is the same for every caller.
        """
        return Passes(self.train_dataloader())

    def validation_batches(self) -> Iterable[Batch]:
        """Give the batches of `predict_dataloader`, for psi.

        Returns:
            Batches to be read and not written to; they are kept in memory where they are small.
        """
        return self._kept_validation.batches()

    def unsorted_batches(self) -> Iterable[Batch]:
        """Give the batches of the images whose task is not known.

        Returns:
            Batches in a fixed order, without labels.
        """
        assert self.unsorted is not None
        return _in_order(self.unsorted, False)

    def evaluation_batches(self) -> Iterable[Batch]:
        """Give the batches of `test_dataloader`, for accuracies.

        Returns:
            Batches to be read and not written to; they are kept in memory where they are small.
        """
        return self._kept_evaluation.batches()

    @cached_property
    def _kept_validation(self) -> "_Kept":
        return _Kept(self.predict_dataloader(), self.validation)

    @cached_property
    def _kept_evaluation(self) -> "_Kept":
        return _Kept(self.test_dataloader(), self.evaluation)


class _Kept:
    """The batches of a loader in a fixed order, held after the first pass where they are small."""

    def __init__(self, loader: Loader, images: Images) -> None:
        self.loader = loader
        self.small = len(images) * images[:1].inputs().nbytes <= KEEP_BYTES if len(images) else False
        self.held: list[Batch] = []
        self.writes: list[int] = []

    def batches(self) -> Iterable[Batch]:
        if not self.small:
            return self.loader
        # PyTorch counts the writes to a tensor, under no public name: a network that works in place on its input must
        # not change what the next row reads.
        if not self.held or [x._version for x, _ in self.held] != self.writes:
            self.held = list(self.loader)
            self.writes = [x._version for x, _ in self.held]
        return self.held


def _in_order(images: Images, labelled: bool) -> Loader:
    return loader(images, BatchOrder(len(images), EVALUATION_BATCH), labelled)
