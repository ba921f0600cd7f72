"""A user's data, which never leave the device, as a Lightning data module."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, cast

from lightning import LightningDataModule

from dua_lightning.data.images import EVALUATION_BATCH, BatchOrder, Images, Loader, Passes, StreamName, loader
from dua_lightning.data.splits import split
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
    picture is in both.

    Args:
        user: The user's name.
        images: The images of each task, both halves together.
        tasks: The tasks.
        seed: The run's seed.
        iteration: The Monte-Carlo iteration, from 1.
        batch_size: Images of a batch in which phi takes a step.
        labelled: Whether user-validation images have labels; on a real device they mostly have not.
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
    ) -> None:
        super().__init__()
        self.user = user
        self.images = images
        self.tasks = tasks
        self.seed = seed
        self.iteration = iteration
        self.batch_size = batch_size
        self.labelled = labelled

    def draw(self, iteration: int) -> "UserData":
        """Give the same user with the halves of another draw.

        Args:
            iteration: The Monte-Carlo iteration, from 1.

        Returns:
            The user's data in those halves.
        """
        return UserData(self.user, self.images, self.tasks, self.seed, iteration, self.batch_size, self.labelled)

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
        rest = self.seed, self.iteration, self.batch_size, self.labelled
        pairs = zip(self.tasks, self.images, strict=True)
        return [UserData(self.user, [images], [task], *rest) for task, images in pairs]

    @cached_property
    def _halves(self) -> tuple[Images, Images]:
        pairs = [
            split(images, 0.5, generator(self.seed, "user", self.user, task.name, self.iteration))
            for task, images in zip(self.tasks, self.images, strict=True)
        ]
        evaluation, validation = zip(*pairs, strict=True)
        return Images.cat(evaluation), Images.cat(validation)

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
        return {
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
