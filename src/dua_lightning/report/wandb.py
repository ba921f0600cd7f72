"""Weights & Biases: one run for each run of ours, or cell of a sweep.

What tells runs apart is in the fields that dashboards sort by: the group is the experiment (`name=`), the job type the
row, or `table` where there are several, and the tags are the names of data, model, fidelity, row and adaptation.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from dua_lightning.errors import InputError
from dua_lightning.report.loggers import Epoch
from dua_lightning.report.records import matrices
from dua_lightning.report.tables import merits, rows


class WandbLogger:
    """Curves of every training, the figures, and three tables: all `records`; `users`, a line for each user's model;
    `accuracy_matrix`, a line for each entry of each row's matrix, averaged over users, iterations and seeds.

    The summary has `NAME/average_accuracy` and `NAME/forgetting` of every row, and, where there is one row alone,
    `average_accuracy` and `forgetting`, which a W&B sweep can name.
    """

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        name: str,
        project: str = "dua_lightning",
        mode: Literal["offline", "online"] = "offline",
        tags: Sequence[str] = (),
    ) -> None:
        try:
            import wandb
        except ImportError as error:
            raise InputError(
                "logger=wandb needs the package wandb; pip install 'dua_lightning[wandb]', or use logger=csv"
            ) from error
        self._wandb = wandb
        folder.mkdir(parents=True, exist_ok=True)
        job = config["method"].get("label", "table")
        # Several rows have an adaptation each.
        axes = ("data", "model", "fidelity", *(["adapt"] if job != "table" else []))
        names = [config[axis]["name"] for axis in axes]
        self._run = wandb.init(
            project=project,
            group=name,
            job_type=job,
            name=f"{job}, seed {config['seed']}",
            tags=list(dict.fromkeys([job, *names, *tags])),
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
                "users": self._wandb.Table(dataframe=merits(records)),
                "accuracy_matrix": self._wandb.Table(dataframe=mean_matrices(records)),
                **{figure.stem: self._wandb.Image(str(figure)) for figure in figures},
            }
        )
        found = rows(records)
        for name, row in found.items():
            for prefix in (f"{name}/", "") if len(found) == 1 else (f"{name}/",):
                self._run.summary[f"{prefix}average_accuracy"] = row.accuracy.mean
                self._run.summary[f"{prefix}forgetting"] = row.forgetting.mean

    def close(self) -> None:
        """An exception on its way through the caller, a signal's too, marks the run as failed."""
        self._run.finish(exit_code=0 if sys.exc_info()[0] is None else 1)


def mean_matrices(records: pd.DataFrame) -> pd.DataFrame:
    """The entries of each row's accuracy matrix as lines: row, after, on (both from 1), mean accuracy in percent."""
    entries = [
        (row, int(t) + 1, int(j) + 1, R[t, j])
        for row, (_, R) in zip(merits(records)["row"], matrices(records), strict=True)
        for t, j in np.argwhere(~np.isnan(R))
    ]
    columns = ["row", "after", "on"]
    return pd.DataFrame(entries, columns=[*columns, "accuracy"]).groupby(columns, sort=False).mean().reset_index()
