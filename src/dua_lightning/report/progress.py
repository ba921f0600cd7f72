"""The progress of training in the terminal."""

import math
import time
from typing import Any

import numpy as np
from lightning import Callback, LightningModule, Trainer

from dua_lightning.report.display import Display


class TrainingProgress(Callback):
    """Shows a bar over the epochs of each fit, and keeps each task's figures.

    It reads the metric `val_accuracy` (percent), and the attribute `task` of the module, which has a `name`. A fit that
    continues from a checkpoint goes on with the figures that it had.

    Args:
        display: Where the bar is shown.
        text: What stands before the task's name.

    Attributes:
        best: The best validation accuracy (percent) of each task's epochs; NaN where none was measured.
        epochs: The number of epochs of each task.
        seconds: The seconds that each task's training took.
    """

    def __init__(self, display: Display, text: str) -> None:
        self.display = display
        self.text = text
        self.best: dict[str, float] = {}
        self.epochs: dict[str, int] = {}
        self.seconds: dict[str, float] = {}
        self._before: dict[str, Any] = {}

    def __reduce__(self) -> tuple[type[Callback], tuple[()]]:
        """In a further process of a training there is no terminal: what arrives there does nothing."""
        return Callback, ()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._since = time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with the figures of a checkpoint that was loaded, or with none."""
        self._task = str(pl_module.task.name)  # type: ignore[union-attr]
        self.best[self._task] = self._before.get("best", math.nan)
        self.epochs[self._task] = self._before.get("epochs", 0)
        self.seconds[self._task] = self._before.get("seconds", 0.0)
        text = f"{self.text}, task {self._task}"
        if self._before:
            self.display.say(f"{text} continues at epoch {self.epochs[self._task] + 1}")
        self._before = {}
        self._bar = self.display.bar(text, trainer.max_epochs or 0)
        self._advance = self._bar.__enter__()
        for _ in range(self.epochs[self._task]):
            self._advance("")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the epoch, and show its accuracy where one was measured."""
        now = time.monotonic()
        self.seconds[self._task] += now - self._since
        self._since = now
        self.epochs[self._task] = trainer.current_epoch + 1
        accuracy = trainer.callback_metrics.get("val_accuracy")
        if accuracy is not None:
            self.best[self._task] = float(np.fmax(self.best[self._task], float(accuracy)))
        self._advance("" if accuracy is None else f"validation {accuracy:.1f} %")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the bar away."""
        self.seconds[self._task] += time.monotonic() - self._since
        self._bar.__exit__(None, None, None)

    def state_dict(self) -> dict[str, Any]:
        """The figures of the task that is being trained, for its checkpoint."""
        task = self._task
        return {"best": self.best[task], "epochs": self.epochs[task], "seconds": self.seconds[task]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the figures of a checkpoint for the training that continues from it."""
        self._before = dict(state_dict)
