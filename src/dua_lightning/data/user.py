"""A user's data, which never leave the device."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

from dua_lightning.data.images import EVALUATION_BATCH, Batches, Images, Kept
from dua_lightning.data.splits import split
from dua_lightning.streams import generator
from dua_lightning.tasks import Batch, Task

KEEP_BYTES = 256 * 2**20
"""The images of one draw up to this size are kept as the network sees them: every row of a run reads them."""


class UserData:
    """One user's images of every task, half for evaluation and half (user-validation) for psi and phi.

    Each Monte-Carlo iteration draws the halves anew, from the stream `(seed, "user", user, task, iteration)`; no source
    picture is in both. With `labelled=False` the user-validation half comes without labels, as on a real device.
    Loaders have the names that Lightning gives them.
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
        self.user = user
        self.images = images
        self.tasks = tasks
        self.seed = seed
        self.iteration = iteration
        self.batch_size = batch_size
        self.labelled = labelled
        halves = [
            split(of_task, 0.5, generator(seed, "user", user, task.name, iteration))
            for task, of_task in zip(tasks, images, strict=True)
        ]
        self.evaluation = [evaluation for evaluation, _ in halves]
        self.validation = [validation for _, validation in halves]

    def draw(self, iteration: int) -> "UserData":
        """The same user with the halves of another iteration."""
        return UserData(self.user, self.images, self.tasks, self.seed, iteration, self.batch_size, self.labelled)

    def recipe(self) -> dict[str, Any]:
        """What of the data, and of their draw, shapes priors and results, in plain values."""
        return {
            "user": self.user,
            "tasks": [[task.name, repr(task.classes)] for task in self.tasks],
            "images": [images.digest() for images in self.images],
            "batch_size": self.batch_size,
            "labelled": self.labelled,
            "seed": self.seed,
            "iteration": self.iteration,
        }

    def train_dataloader(self) -> list[Batches]:
        """User-validation data of each task for phi: small batches, reshuffled at every pass."""
        return [
            Batches(
                images,
                self.batch_size,
                (self.seed, "adapt", self.user, task.name, self.iteration),
                self.labelled,
            )
            for task, images in zip(self.tasks, self.validation, strict=True)
        ]

    def predict_dataloader(self) -> Sequence[Iterable[Batch]]:
        """User-validation data of each task for psi, in a fixed order; to be read and not written to."""
        return self._in_order(self.validation, self._kept and self._kept[0], self.labelled)

    def test_dataloader(self) -> Sequence[Iterable[Batch]]:
        """Evaluation data of each task, in a fixed order; to be read and not written to."""
        return self._in_order(self.evaluation, self.test_images())

    def test_images(self) -> Kept | None:
        """Evaluation data of all tasks in one tensor; none for those that are too large to be kept."""
        return self._kept and self._kept[1]

    def _in_order(self, half: list[Images], kept: Kept | None, labelled: bool = True) -> Sequence[Iterable[Batch]]:
        return kept.batches() if kept else [Batches(images, EVALUATION_BATCH, labelled=labelled) for images in half]

    @cached_property
    def _kept(self) -> tuple[Kept, Kept] | None:
        samples = [(len(images), images[:1].inputs()) for images in self.validation + self.evaluation]
        small = sum(count * x.nbytes for count, x in samples) <= KEEP_BYTES
        if small and len({x.shape for _, x in samples}) == 1:
            return Kept(self.validation, self.labelled), Kept(self.evaluation)
        return None
