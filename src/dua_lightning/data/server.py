"""The server's data of one task, as a Lightning data module."""

from collections.abc import Sequence

import torch
from lightning import LightningDataModule

from dua_lightning.data.images import EVALUATION_BATCH, BatchOrder, Images, Loader, loader
from dua_lightning.errors import InputError
from dua_lightning.tasks import Batch, Task


class ServerTask(LightningDataModule):
    """Training and validation images of one task.

    Lightning's Trainer takes it as it is: `fit` reads the training images, `validate` and `test` the validation images,
    `predict` the training images in a fixed order and not augmented, which is also what a regulariser measures.
    Batches are `(x, labels)`, labels being classes of the whole benchmark.

    The order of epoch e comes from the stream `(seed, "server", task, e)`, the random cut and mirroring from
    `(seed, "server", task, "augment", e)`. Where the Trainer has several devices, each takes its part of every batch,
    so that the same training takes the same steps on any number of devices.

    Args:
        task: The task.
        train: Its training images.
        validation: Its validation images.
        batch_size: Images of a training batch, over all devices.
        seed: The run's seed.
        augment: Whether training images are cut and mirrored at random.
        workers: Processes that prepare batches; 0 for none, which is faster for images in memory.
    """

    def __init__(
        self,
        task: Task,
        train: Images,
        validation: Images,
        batch_size: int,
        seed: int,
        augment: bool = False,
        workers: int = 0,
    ) -> None:
        super().__init__()
        self.task = task
        self.train = train
        self.validation = validation
        self.batch_size = batch_size
        self.seed = seed
        self.augment = augment
        self.workers = workers

    def recipe(self) -> dict[str, str | int | bool]:
        """Describe everything in the data that shapes the expert.

        Returns:
            Plain values by name; images by their digests.
        """
        return {
            "task": self.task.name,
            "classes": repr(self.task.classes),
            "train": self.train.digest(),
            "validation": self.validation.digest(),
            "batch_size": self.batch_size,
            "augment": self.augment,
            "seed": self.seed,
        }

    def train_dataloader(self) -> Loader:
        """The training images in an order of each epoch's own."""
        rank, processes = self._place()
        stream = (self.seed, "server", self.task.name)
        order = BatchOrder(len(self.train), self.batch_size, stream, self.augment, rank, processes)
        return loader(self.train, order, workers=self.workers, pin=self._pins())

    def val_dataloader(self) -> Loader:
        """The validation images in a fixed order."""
        return self._in_order(self.validation)

    def test_dataloader(self) -> Loader:
        """The same as `val_dataloader`: the server holds no further images back."""
        return self._in_order(self.validation)

    def predict_dataloader(self) -> Loader:
        """The training images in a fixed order, not augmented."""
        return self._in_order(self.train)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        # Lightning's own way looks into every kind of collection, which takes a tenth of a small network's step.
        x, y = batch
        return x.to(device, non_blocking=True), None if y is None else y.to(device, non_blocking=True)

    def _in_order(self, images: Images) -> Loader:
        rank, processes = self._place()
        if len(images) < processes:
            raise InputError(
                f"task {self.task.name} has {len(images)} images of a side for {processes} devices; use at most as many"
            )
        return loader(images, BatchOrder(len(images), EVALUATION_BATCH, None, False, rank, processes), pin=self._pins())

    def _place(self) -> tuple[int, int]:
        """Tell this process's number and how many there are."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _pins(self) -> bool:
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"


def union(tasks: Sequence[ServerTask]) -> ServerTask:
    """Join all tasks into one, for Joint training: a softmax over the classes of every task.

    Args:
        tasks: The tasks' data in the order of their classes; the first one's batch size, seed and other arguments hold.

    Returns:
        The data of the task `joint`.
    """
    first, last = tasks[0], tasks[-1]
    return ServerTask(
        Task("joint", slice(first.task.classes.start, last.task.classes.stop)),
        Images.cat([part.train for part in tasks]),
        Images.cat([part.validation for part in tasks]),
        first.batch_size,
        first.seed,
        first.augment,
        first.workers,
    )
