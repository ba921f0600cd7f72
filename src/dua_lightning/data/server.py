"""The server's data of one task."""

from collections.abc import Sequence

from lightning import LightningDataModule

from dua_lightning.data.images import EVALUATION_BATCH, Batches, Images
from dua_lightning.tasks import Task


class ServerData(LightningDataModule):
    """Training and validation images of one task; the training order is the stream `(seed, "server", task)`."""

    def __init__(self, task: Task, train: Images, validation: Images, batch_size: int, seed: int) -> None:
        super().__init__()
        self.task = task
        self.train = train
        self.validation = validation
        self.batch_size = batch_size
        self.seed = seed

    def train_dataloader(self) -> Batches:
        return Batches(self.train, self.batch_size, (self.seed, "server", self.task.name))

    def val_dataloader(self) -> Batches:
        return Batches(self.validation, EVALUATION_BATCH)

    def predict_dataloader(self) -> Batches:
        """The training images in a fixed order: what a regulariser measures."""
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
    )
