"""The LightningModule of an expert."""

import logging
import multiprocessing
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MeanMetric

from dua_lightning.errors import InputError
from dua_lightning.params import inputs, not_finite
from dua_lightning.regularise.base import regularisation
from dua_lightning.streams import derive
from dua_lightning.tasks import Batch, Task, refusing_batch

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]
"""A function that makes the optimizer of parameters."""
MakeScheduler = Callable[[Optimizer], LRScheduler]
"""A function that makes the scheduler of an optimizer."""


class ExpertModule(LightningModule):
    """Cross-entropy over a task's columns of the logits, plus what the Trainer's regularisers add.

    It logs once an epoch: `train_loss`, the mean over the epoch's images with the regularisers' terms, and
    `val_accuracy`, in percent; `test` logs `test_accuracy`, and `predict` gives the task's logits. Dropout of epoch e
    draws from the stream `(seed, "dropout", task, e, device)`, so that a training that continues at an epoch needs no
    random state.

    Args:
        net: The network, which gives the logits of all classes of the benchmark.
        task: The task that is learnt.
        optimizer: Makes the optimizer of the network's parameters.
        scheduler: Makes the scheduler of an optimizer, which steps once an epoch and is given `val_accuracy` if it
            asks for a metric; by default there is none.
        seed: The run's seed.

    Raises:
        InputError: While training, for a batch that is too small to be normalised, for a loss that is not finite at the
            end of an epoch, for NaN or infinity as the largest logit of an image whose accuracy is measured, and for
            values that the optimizer refuses.
    """

    def __init__(
        self,
        net: nn.Module,
        task: Task,
        optimizer: MakeOptimizer,
        scheduler: MakeScheduler | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.net = net
        self.task = task
        self.seed = seed
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler
        self.accuracy = MeanMetric(nan_strategy="disable")
        self.loss_sum: Tensor | float = 0.0
        self.images = 0
        self.start = ""

    @property
    def head(self) -> nn.Module | nn.Parameter | None:
        """The part of the network whose columns belong to tasks; regularisers leave it alone."""
        head = getattr(self.net, "head", None)
        return head if isinstance(head, nn.Module | nn.Parameter) else None

    def forward(self, x: Tensor) -> Tensor:
        """`(n, classes)` logits of all classes of the benchmark for inputs `(n, ...)`."""
        logits: Tensor = self.net(inputs(self.net, x, x.device))
        return logits

    def setup(self, stage: str) -> None:
        if multiprocessing.parent_process() is not None:
            # The first process of a training has said what Lightning advises, or has silenced it.
            warnings.filterwarnings("ignore", module="lightning")
            logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)

    def on_train_epoch_start(self) -> None:
        self.loss_sum, self.images = 0.0, 0

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        x, y = batch
        assert y is not None
        if batch_idx == 0:
            # Not before: a loader takes a number when a pass begins, sooner or later in the epoch.
            torch.manual_seed(derive(self.seed, "dropout", self.task.name, self.current_epoch, self.global_rank))
        with refusing_batch(x, self.task):
            logits = self(x)
        loss = nn.functional.cross_entropy(logits[:, self.task.classes], y - self.task.classes.start)
        extra = regularisation(self, x, logits)
        if isinstance(extra, Tensor):
            loss = loss + extra
        # Logging each step would take longer than a small network's step.
        self.loss_sum = self.loss_sum + loss.detach() * len(y)
        self.images += len(y)
        if self.trainer.is_last_batch:
            self._log_loss()
        return loss

    def on_train_epoch_end(self) -> None:
        # Without a last batch, the training ends within an epoch.
        if self.images:
            self._log_loss()

    def _log_loss(self) -> None:
        loss = torch.as_tensor(self.loss_sum / self.images)
        self.images = 0
        if not loss.isfinite():
            raise InputError(
                f"training on task {self.task.name} diverged (loss {float(loss)}); lower the learning rate, or the "
                "regulariser's strength"
            )
        self.log("train_loss", loss, on_step=False, on_epoch=True, sync_dist=True, batch_size=1)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._log_accuracy("val_accuracy", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._log_accuracy("test_accuracy", batch)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """`(n, classes of the task)` logits."""
        logits: Tensor = self(batch[0])
        return logits[:, self.task.classes]

    def _log_accuracy(self, name: str, batch: Batch) -> None:
        x, y = batch
        logits = self(x)[:, self.task.classes]
        right = 100.0 * (logits.argmax(1) + self.task.classes.start == y)
        # The largest is NaN where any logit is, and would be counted as some class.
        self.accuracy.update(right.where(logits.amax(1).isfinite(), torch.nan))
        self.log(name, self.accuracy, on_step=False, on_epoch=True)

    def on_validation_epoch_end(self) -> None:
        self._check_accuracy()

    def on_test_epoch_end(self) -> None:
        self._check_accuracy()

    def _check_accuracy(self) -> None:
        if not self.accuracy.compute().isfinite():
            if holding := not_finite(self.net.state_dict()):
                raise InputError(
                    f"training on task {self.task.name} diverged ({holding[0]} holds NaN or infinity); lower the "
                    "learning rate, or the regulariser's strength"
                )
            raise InputError(
                f"the accuracy on task {self.task.name} is not defined: the largest logit of an image is NaN or "
                "infinite; look at the images and the network"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say which fit the checkpoint is of, by what it started from."""
        checkpoint["start"] = self.start

    def configure_optimizers(self) -> OptimizerLRScheduler:
        try:
            optimizer = self.make_optimizer(self.net.parameters())
        except ValueError as error:
            raise InputError(f"the optimizer cannot be made ({error}); give it other values") from error
        if self.make_scheduler is None:
            return optimizer
        scheduler = self.make_scheduler(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val_accuracy"}}
