"""The progress of training in the terminal."""

from lightning import Callback, LightningModule, Trainer

from dua_lightning.report.display import Display


class TrainingProgress(Callback):
    """Shows a bar over the epochs of each fit, with the validation accuracy where one is measured.

    It reads the metric `val_accuracy` (percent), and the attribute `task` of the module, which has a `name`.

    Args:
        display: The terminal in which the bar is shown.
        text: The words before the task's name.
    """

    def __init__(self, display: Display, text: str) -> None:
        self.display = display
        self.text = text

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the bar, and say where a fit continues that was interrupted."""
        text = f"{self.text}, task {pl_module.task.name}"  # type: ignore[union-attr]
        self._bar = self.display.bar(text, trainer.max_epochs or 0)
        self._advance = self._bar.__enter__()
        if trainer.current_epoch:
            self.display.say(f"{text} continues at epoch {trainer.current_epoch + 1}")
        for _ in range(trainer.current_epoch):
            self._advance("")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Move the bar on."""
        accuracy = trainer.callback_metrics.get("val_accuracy")
        self._advance("" if accuracy is None else f"validation {accuracy:.1f} %")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the bar away."""
        self._bar.__exit__(None, None, None)
