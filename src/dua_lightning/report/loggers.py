"""Where the curves of training and the results of a run go besides the records."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pandas as pd

from dua_lightning.store.files import write_text

Epoch = Mapping[str, str | int | float]
"""One epoch of one training: seed, experts, task, epoch, train_loss, val_accuracy (percent), lr."""


@runtime_checkable
class Logger(Protocol):
    """Built with the run's folder, its configuration and its name."""

    def epoch(self, values: Epoch) -> None: ...

    def results(self, records: pd.DataFrame, figures: Sequence[Path]) -> None: ...

    def close(self) -> None:
        """Called in every case, also after an error."""


class NoLogger:
    """Records, table and figures only."""

    def __init__(self, folder: Path, config: Mapping[str, Any], name: str) -> None:
        pass

    def epoch(self, values: Epoch) -> None:
        pass

    def results(self, records: pd.DataFrame, figures: Sequence[Path]) -> None:
        pass

    def close(self) -> None:
        pass


class CsvLogger(NoLogger):
    """`training.csv`: a line for each epoch that was really trained; none for experts taken from the store."""

    def __init__(self, folder: Path, config: Mapping[str, Any], name: str) -> None:
        self._path = folder / "training.csv"
        self._epochs: list[Epoch] = []

    def epoch(self, values: Epoch) -> None:
        self._epochs.append(values)

    def close(self) -> None:
        if self._epochs:
            write_text(self._path, pd.DataFrame(self._epochs).to_csv(index=False))
