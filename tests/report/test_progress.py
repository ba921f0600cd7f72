"""Progress of training: the lines, and the curve of a fit that continues."""

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from dua_lightning.regularise import Free
from dua_lightning.report.loggers import Epoch
from dua_lightning.report.progress import Display, TrainingProgress
from dua_lightning.training.training import Training, fit
from tests.helpers import tiny
from tests.training.test_training import Kill, Killed

TRAINING = Training(max_epochs=4, lr=0.02, checkpoint_seconds=0)


def train(path: Path | None, *callbacks: Kill) -> tuple[list[Epoch], str]:
    """The epochs that were handed on, and what was said."""
    console, epochs = Console(record=True, width=200, file=StringIO()), []
    progress = TrainingProgress(Display(console), "seed 1", {"seed": 1}, epochs.append)
    fit(tiny.network(), tiny.benchmark().server[0], Free(), TRAINING, [progress, *callbacks], path)
    return epochs, console.export_text()


def test_the_curve_of_a_fit_that_continues_is_whole_and_it_says_where(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    whole, said = train(None)
    assert [epoch["epoch"] for epoch in whole] == [1, 2, 3, 4]
    assert set(whole[0]) == {"seed", "task", "epoch", "train_loss", "val_accuracy", "lr"}
    assert "continues" not in said
    with pytest.raises(Killed):
        train(path, Kill(2, within=True))
    again, said = train(path)
    assert again == whole
    assert list(again[0]) == list(whole[-1]), "the columns of a table of epochs are in another order"
    assert "seed 1, task a continues at epoch 3" in said
