"""The progress of training, as a stage of the run."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from lightning import Callback, LightningModule, Trainer

from dua_lightning.report.display import Display


class TrainingProgress(Callback):
    """Shows a bar over the epochs of each fit, with the validation accuracy where one is measured.

    It reads the metric `val_accuracy` (percent), and the attribute `task` of the module, which has a `name`. In further
    processes, which Lightning starts for several devices, it is silent: they do not have the terminal.

    Args:
        display: The terminal in which the bar is shown.
        text: The words before the task's name.
    """

    def __init__(self, display: Display, text: str) -> None:
        self.display: Display | None = display
        self.text = text

    def __getstate__(self) -> dict[str, Any]:
        """Leave the terminal behind where a copy goes to another process."""
        return {**self.__dict__, "display": None}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the bar, and say where a fit continues that was interrupted."""
        text = f"{self.text}, task {pl_module.task.name}"  # type: ignore[union-attr]
        self._bar: AbstractContextManager[Callable[[str], None]] = nullcontext(lambda note: None)
        if self.display is not None:
            self._bar = self.display.bar(text, trainer.max_epochs or 0, trainer.current_epoch)
            if trainer.current_epoch:
                self.display.say(f"{text} continues at epoch {trainer.current_epoch + 1}")
        self._advance = self._bar.__enter__()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Move the bar on."""
        accuracy = trainer.callback_metrics.get("val_accuracy")
        self._advance("" if accuracy is None else f"validation {accuracy:.1f} %")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the bar away."""
        self._bar.__exit__(None, None, None)
