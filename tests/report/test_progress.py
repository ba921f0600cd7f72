"""The progress of training: the bar, and a fit that continues from a checkpoint."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from dua_lightning.report.display import Display
from dua_lightning.report.progress import TrainingProgress
from dua_lightning.report.terminal import Terminal
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
    fit(name, TrainingProgress(Display(Terminal(file=StringIO())), ""), len(ACCURACIES), logger=logger)


class Bars(Display):
    """Keeps what is said, and the notes of each bar."""

    def __init__(self) -> None:
        super().__init__(Terminal(file=StringIO()))
        self.said: list[str] = []
        self.notes: dict[str, list[str]] = {}
        self.totals: list[tuple[int, int]] = []
        self.open = 0

    def say(self, text: str) -> None:
        self.said.append(text)

    @contextmanager
    def bar(self, text: str, total: int, first: int = 0) -> Iterator[Callable[[str], None]]:
        self.totals.append((first, total))
        self.open += 1
        yield self.notes.setdefault(text, []).append
        self.open -= 1


def test_each_task_has_a_bar_with_the_accuracy_of_each_epoch() -> None:
    bars = Bars()
    progress = TrainingProgress(bars, "seed 1")
    fit("a", progress, 1)
    fit("b", progress, 4)
    assert bars.notes == {
        "seed 1, task a": ["validation 50.0 %"],
        "seed 1, task b": [f"validation {accuracy} %" for accuracy in ACCURACIES],
    }
    assert (bars.totals, bars.open, bars.said) == ([(0, 1), (0, 4)], 0, [])


def test_a_fit_that_continues_says_where_and_its_bar_begins_there(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    fit("a", TrainingProgress(Bars(), ""), 2).save_checkpoint(path)
    bars = Bars()
    fit("a", TrainingProgress(bars, "seed 1"), 4, path)
    assert bars.said == ["seed 1, task a continues at epoch 3"]
    assert bars.notes == {"seed 1, task a": ["validation 70.0 %", "validation 75.0 %"]}
    assert bars.totals == [(2, 4)]


def test_without_validation_there_is_no_accuracy() -> None:
    bars = Bars()
    fit("a", TrainingProgress(bars, "seed 1"), 2, limit_val_batches=0)
    assert bars.notes == {"seed 1, task a": ["", ""]}


def test_a_copy_for_another_process_is_silent() -> None:
    display = Display(Terminal(file=StringIO()))
    with display:
        copied = copy.deepcopy(TrainingProgress(display, "seed 1"))
    assert copied.display is None
    fit("a", copied, 2)
