"""The progress of training: the figures of each task, and a fit that continues from a checkpoint."""

import math
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from dua_lightning.report.display import Display
from dua_lightning.report.progress import TrainingProgress
from dua_lightning.tasks import Task

ACCURACIES = (50.0, 80.0, 70.0, 75.0)


class Module(LightningModule):
    """Any module with a task that logs the two metrics; its accuracies are `ACCURACIES`."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.task = Task(name, slice(0, 1))
        self.layer = nn.Linear(1, 1)

    def training_step(self, batch: list[Tensor]) -> Tensor:
        loss = self.layer(batch[0]).square().mean()
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: list[Tensor]) -> None:
        self.log("val_accuracy", ACCURACIES[self.current_epoch])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(name: str, progress: TrainingProgress, epochs: int, path: Path | None = None, **flags: Any) -> Trainer:
    names = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    quiet: dict[str, Any] = dict.fromkeys(names, False)
    given = {**quiet, "num_sanity_val_steps": 0, **flags}
    trainer = Trainer(accelerator="cpu", max_epochs=epochs, callbacks=[progress], **given)
    loader = DataLoader(TensorDataset(torch.ones(2, 1)))
    trainer.fit(Module(name), loader, loader, ckpt_path=path, weights_only=True)
    return trainer


def fit_with(logger: Logger, name: str) -> None:
    """Train a module on a task for four epochs, its metrics logged."""
    fit(name, TrainingProgress(Display(Console(file=StringIO())), ""), len(ACCURACIES), logger=logger)


@pytest.fixture
def console() -> Console:
    return Console(record=True, width=200, file=StringIO())


def test_each_task_has_its_best_accuracy_its_epochs_and_its_seconds(console: Console) -> None:
    progress = TrainingProgress(Display(console), "seed 1")
    fit("a", progress, 1)
    fit("b", progress, 4)
    assert progress.best == {"a": 50.0, "b": 80.0}
    assert progress.epochs == {"a": 1, "b": 4}
    assert 0 < progress.seconds["a"] < progress.seconds["b"]
    assert "continues" not in console.export_text()


def test_a_fit_that_continues_goes_on_with_its_figures_and_says_where(console: Console, tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    first = TrainingProgress(Display(console), "seed 1")
    fit("earlier", first, 1)
    fit("a", first, 2).save_checkpoint(path)
    progress = TrainingProgress(Display(console), "seed 1")
    fit("a", progress, 4, path)
    assert "seed 1, task a continues at epoch 3" in console.export_text()
    assert progress.best == {"a": 80.0}, "the best epoch was before the interruption; other tasks are not of this fit"
    assert progress.epochs == {"a": 4}
    assert progress.seconds["a"] > first.seconds["a"]


def test_without_validation_there_is_no_accuracy(console: Console) -> None:
    progress = TrainingProgress(Display(console), "seed 1")
    fit("a", progress, 2, limit_val_batches=0)
    assert math.isnan(progress.best["a"])
    assert progress.epochs == {"a": 2}


def test_the_bar_names_the_task_and_counts_its_epochs() -> None:
    console = Console(force_terminal=True, width=120, file=StringIO())
    display = Display(console)
    with display.progress:
        fit("a", TrainingProgress(display, "seed 1"), 3)
        display.progress.refresh()
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "seed 1, task a" in shown
    assert "/3" in shown
