"""The server's data of one task."""

from collections.abc import Sequence

from dua_lightning.data.images import EVALUATION_BATCH, Batches, Images
from dua_lightning.tasks import Task


class ServerData:
    """Training and validation images of one task; the training order is the stream `(seed, "server", task)`.

    With `augment` the training images are cut and mirrored at random, from the same stream. Loaders have the names that
    Lightning gives them.
    """

    def __init__(
        self, task: Task, train: Images, validation: Images, batch_size: int, seed: int, augment: bool = False
    ) -> None:
        self.task = task
        self.train = train
        self.validation = validation
        self.batch_size = batch_size
        self.seed = seed
        self.augment = augment

    def recipe(self) -> dict[str, str | int | bool]:
        """What of the data shapes the expert, in plain values."""
        return {
            "task": self.task.name,
            "classes": repr(self.task.classes),
            "train": self.train.digest(),
            "validation": self.validation.digest(),
            "batch_size": self.batch_size,
            "augment": self.augment,
            "seed": self.seed,
        }

    def train_dataloader(self) -> Batches:
        return Batches(self.train, self.batch_size, (self.seed, "server", self.task.name), augment=self.augment)

    def val_dataloader(self, rows: slice = slice(None)) -> Batches:
        """The validation images, or some of them."""
        return Batches(self.validation[rows], EVALUATION_BATCH)

    def predict_dataloader(self) -> Batches:
        """The training images in a fixed order, not augmented: what a regulariser measures."""
        return Batches(self.train, EVALUATION_BATCH)


def union(data: Sequence[ServerData]) -> ServerData:
    """All tasks as one, for Joint training: a softmax over the classes of every task."""
    first, last = data[0], data[-1]
    return ServerData(
        Task("joint", slice(first.task.classes.start, last.task.classes.stop)),
        Images.cat([part.train for part in data]),
        Images.cat([part.validation for part in data]),
        first.batch_size,
        first.seed,
        first.augment,
    )
