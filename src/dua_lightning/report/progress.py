"""Training in the terminal and in the loggers."""

import time
from collections.abc import Callable

from lightning import Callback, LightningModule, Trainer

from dua_lightning.report.display import Display
from dua_lightning.report.loggers import Epoch
from dua_lightning.training import ExpertModule


class TrainingProgress(Callback):
    """A bar over the epochs of each fit; hands each epoch's values on, and keeps each task's best accuracy."""

    def __init__(self, display: Display, text: str, values: Epoch, record: Callable[[Epoch], None]) -> None:
        self.display = display
        self.text = text
        self.values = values
        self.record = record
        self.best: dict[str, float] = {}
        self.started = time.monotonic()

    def seconds(self) -> float:
        """Since the callback was made."""
        return time.monotonic() - self.started

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, ExpertModule)
        self._bar = self.display.bar(f"{self.text}, task {pl_module.task.name}", trainer.max_epochs or 0)
        self._advance = self._bar.__enter__()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, ExpertModule)
        metrics = trainer.callback_metrics
        epoch = {
            **self.values,
            "task": pl_module.task.name,
            "epoch": trainer.current_epoch + 1,
            "train_loss": float(metrics["train_loss"]),
            "val_accuracy": float(metrics["val_accuracy"]),
            "lr": float(trainer.optimizers[0].param_groups[0]["lr"]),
        }
        self.record(epoch)
        self._advance(f"validation {epoch['val_accuracy']:.1f} %")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, ExpertModule)
        self._bar.__exit__(None, None, None)
        self.best[pl_module.task.name] = pl_module.best_accuracy
