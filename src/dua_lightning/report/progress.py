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
