"""Weights & Biases: one run for each run of ours, grouped by experiment."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from dua_lightning.errors import InputError
from dua_lightning.report.loggers import Epoch
from dua_lightning.report.tables import merits, rows


class WandbLogger:
    """Curves of every training, all records as the table `records`, one line for each user's model as the table
    `merits`, the figures, and `NAME/average_accuracy` and `NAME/forgetting` of every row in the summary.
    """

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        name: str,
        project: str = "dua_lightning",
        mode: Literal["offline", "online"] = "offline",
    ) -> None:
        try:
            import wandb
        except ImportError as error:
            raise InputError(
                "logger=wandb needs the package wandb; pip install 'dua_lightning[wandb]', or use logger=csv"
            ) from error
        self._wandb = wandb
        folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=project,
            group=name,
            job_type="run",
            config=dict(config),
            dir=str(folder),
            mode=mode,
            settings=wandb.Settings(console="off", silent=True),
        )

    def epoch(self, values: Epoch) -> None:
        curve = f"seed {values['seed']}/{values['experts']}/{values['task']}"
        if values["epoch"] == 1:
            self._run.define_metric(f"{curve}/*", step_metric=f"{curve}/epoch")
        self._run.log({f"{curve}/{key}": values[key] for key in ("epoch", "train_loss", "val_accuracy", "lr")})

    def results(self, records: pd.DataFrame, figures: Sequence[Path]) -> None:
        self._run.log(
            {
                "records": self._wandb.Table(dataframe=records),
                "merits": self._wandb.Table(dataframe=merits(records)),
                **{figure.stem: self._wandb.Image(str(figure)) for figure in figures},
            }
        )
        for name, row in rows(records).items():
            self._run.summary[f"{name}/average_accuracy"] = row.accuracy.mean
            self._run.summary[f"{name}/forgetting"] = row.forgetting.mean

    def close(self) -> None:
        """An exception on its way through the caller, a signal's too, marks the run as failed."""
        self._run.finish(exit_code=0 if sys.exc_info()[0] is None else 1)
