"""Progress in the terminal: bars where it is one, a line for each finished stage everywhere."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dua_lightning.report.loggers import Epoch
from dua_lightning.training import ExpertModule

log = logging.getLogger(__name__)


class Display:
    """The bars of a run and the lines above them."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def say(self, text: str) -> None:
        """A line for people and for the run's log."""
        self.console.print(text, highlight=False)
        log.info(text)

    @contextmanager
    def bar(self, text: str, total: int) -> Iterator[Callable[[str], None]]:
        """A bar while the block runs; what it yields moves it on by one and sets the note behind it."""
        task = self.progress.add_task(text, total=total, note="")
        try:
            yield lambda note: self.progress.update(task, advance=1, note=note)
        finally:
            self.progress.remove_task(task)


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
