"""Training in the terminal and in the loggers."""

import time
from collections.abc import Callable

from lightning import Callback, LightningModule, Trainer

from dua_lightning.report.display import Display
from dua_lightning.report.loggers import Epoch
from dua_lightning.training.training import ExpertModule


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
        """Epochs of a fit that continues are handed on again, so that its curve is whole."""
        assert isinstance(pl_module, ExpertModule)
        text = f"{self.text}, task {pl_module.task.name}"
        self._bar = self.display.bar(text, trainer.max_epochs or 0)
        self._advance = self._bar.__enter__()
        if pl_module.curve:
            self.display.say(f"{text} continues at epoch {len(pl_module.curve) + 1}")
        for epoch in range(len(pl_module.curve)):
            self._epoch(pl_module, epoch)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, ExpertModule)
        self._epoch(pl_module, trainer.current_epoch)

    def _epoch(self, module: ExpertModule, epoch: int) -> None:
        values = module.curve[epoch]
        self.record({**self.values, "task": module.task.name, "epoch": epoch + 1, **values})
        self._advance(f"validation {values['val_accuracy']:.1f} %")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, ExpertModule)
        self._bar.__exit__(None, None, None)
        self.best[pl_module.task.name] = pl_module.best_accuracy
