"""Lightning's loggers: one for each run, which takes the curves of every training and the results of the run.

`start` opens it, `curves` gives each training's Trainer its part of it, `results` logs tables, figures and figures of
merit, and `close` ends it.
"""

import logging
import math
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from matplotlib.image import imread

from dua_lightning.errors import InputError
from dua_lightning.report import records
from dua_lightning.report.reduce import Reduced, entries, over_seeds

EXTRAS = ("wandb", "tensorboard", "mlflow")
"""The extras of this package that install what a logger needs."""
SEVERAL = "table"
"""The word in place of the row's label for a run of several rows."""
METRICS = "metrics.csv"
"""The file in which Lightning's CSVLogger keeps curves."""


@dataclass(frozen=True)
class RunLogger:
    """The logger of a run.

    Args:
        logger: The logger.
        settings: The arguments that its class was called with.
    """

    logger: Logger
    settings: Mapping[str, Any]


class PrefixedLogger(Logger):
    """Logs to another logger under names with a prefix; when a training ends, the other logger stays open.

    Trainers call `finalize` at the end of each fit, which would end the run of a service such as MLflow.

    Args:
        logger: The logger of the whole run.
        prefix: What stands before each metric's name, with a slash between.
    """

    def __init__(self, logger: Logger, prefix: str) -> None:
        super().__init__()
        self.logger = logger
        self.prefix = prefix

    @property
    def name(self) -> str | None:
        """The name of the whole run's logger."""
        return self.logger.name

    @property
    def version(self) -> int | str | None:
        """The version of the whole run's logger."""
        return self.logger.version

    @property
    def save_dir(self) -> str | None:
        """The folder of the whole run's logger."""
        return self.logger.save_dir

    @property
    def experiment(self) -> Any:
        """The object of the service that the whole run's logger writes to."""
        return self.logger.experiment  # type: ignore[attr-defined]

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics under the prefix."""
        self.logger.log_metrics({f"{self.prefix}/{name}": float(value) for name, value in metrics.items()}, step)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Log nothing: the run's configuration is logged once, and a module's settings are part of it."""

    @rank_zero_only
    def save(self) -> None:
        """Save what the whole run's logger has."""
        self.logger.save()


def start(
    kind: Callable[..., Logger], settings: Mapping[str, Any], folder: Path, config: Mapping[str, Any], row: str
) -> RunLogger:
    """Make the logger of a run and open it, so that it fails before anything is trained.

    Args:
        kind: A class of Lightning loggers.
        settings: The arguments that it is called with, besides its folder and the names of the run.
        folder: The run's folder, in which the logger keeps its files.
        config: The configuration of the run in plain values, logged as its hyperparameters.
        row: The label of the run's row, or `table` for a run of several.

    Returns:
        The logger of the run.

    Raises:
        InputError: A package is missing, or the logger cannot be started with these settings.
    """
    # They announce settings that Lightning makes, each table of a new database, and each experiment that is new in it.
    os.environ |= {"WANDB_SILENT": "true", "MLFLOW_LOGGING_LEVEL": "WARNING"}
    logging.getLogger("lightning.pytorch.loggers.mlflow").setLevel(logging.ERROR)
    given = {**settings, **_names(kind, settings, folder, config, row), "save_dir": str(folder)}
    try:
        if kind is WandbLogger:
            import wandb

            # It reads that it is silent.
            wandb.setup()
        logger = kind(**given)
        # W&B and MLflow begin their run here, CSVLogger makes its folder.
        _ = logger.experiment  # type: ignore[attr-defined]
        logger.log_hyperparams(dict(config))
    except ModuleNotFoundError as error:
        missing = next((extra for extra in EXTRAS if extra in str(error)), None)
        install = f"pip install 'dua_lightning[{missing}]'" if missing else f"install it ({error})"
        raise InputError(
            f"{kind.__name__} needs a package that is not there; {install}, or use the logger csv"
        ) from error
    except Exception as error:
        # Each of the packages has errors of its own.
        reason = " ".join(str(error).split())
        next_step = "change its settings, or use the logger csv"
        raise InputError(f"{kind.__name__} cannot be started ({reason}); {next_step}") from error
    return RunLogger(logger, given)


def _names(
    kind: Callable[..., Logger], settings: Mapping[str, Any], folder: Path, config: Mapping[str, Any], row: str
) -> dict[str, Any]:
    """The arguments by which a service sorts runs, and the place of its files on this machine."""
    # Several rows have an adaptation each.
    axes = ("data", "model", "fidelity", *(["adapt"] if row != SEVERAL else []))
    tags = {"row": row, **{axis: str(config[axis]["name"]) for axis in axes}}
    title = f"{row}, seed {config['seed']}"
    if kind is WandbLogger:
        own = list(dict.fromkeys([*tags.values(), *settings.get("tags", ())]))
        # Lightning says it by an environment variable, which W&B may have read already.
        mode = settings.get("mode", "offline" if settings.get("offline") else "online")
        return {"group": config["name"], "job_type": row, "name": title, "tags": own, "mode": mode}
    if kind is MLFlowLogger:
        names = {"experiment_name": config["name"], "run_name": title, "tags": {**tags, **settings.get("tags", {})}}
        if settings.get("tracking_uri"):
            return names
        place = folder.resolve()
        return {**names, "tracking_uri": f"sqlite:///{place}/mlflow.db", "artifact_location": f"{place}/mlflow"}
    return {}


def curves(run: RunLogger | None, seed: int, training: str, task: str) -> Logger | Literal[False]:
    """Give the logger for the Trainer of one task's training.

    Loggers that write files get a folder of their own for each training, so that tools lay the curves over each other;
    in one run of another service the names of metrics begin with the training's.

    Args:
        run: The run's logger, or None for no logging.
        seed: The run's seed.
        training: The label of the experts that are trained.
        task: The name of the task.

    Returns:
        A logger for `Trainer(logger=...)`; False without one.
    """
    if run is None:
        return False
    *parents, last = place(seed, training, task)
    if isinstance(run.logger, CSVLogger | TensorBoardLogger):
        where = {"save_dir": run.logger.log_dir, "name": "/".join(parents), "version": last}
        return type(run.logger)(**{**run.settings, **where})
    prefix = "/".join([*parents, last])
    if isinstance(run.logger, WandbLogger):
        run.logger.experiment.define_metric(f"{prefix}/*", step_metric=f"{prefix}/epoch")
    return PrefixedLogger(run.logger, prefix)


def place(seed: int, training: str, task: str) -> tuple[str, str, str]:
    """Name the folders of a training's curves, without characters that folders cannot have.

    Args:
        seed: The run's seed.
        training: The label of the experts that are trained.
        task: The name of the task.

    Returns:
        Three folders, one in the other.
    """
    training, task = (re.sub(r"[^-.,=\w ]", "_", text) for text in (training, task))
    return f"seed_{seed}", training, task


def results(run: RunLogger | None, reduced: Reduced, path: Path, figures: Sequence[Path]) -> None:
    """Log the results of a run: figures of merit, figures, and tables where the logger has a place for them.

    Args:
        run: The run's logger, or None for no logging.
        reduced: The reduced records.
        path: The file of the records; every accuracy is logged from it where users are few.
        figures: The files of the figures.
    """
    if run is None:
        return
    logger, metrics = run.logger, merits(reduced)
    tables = {"users": reduced.draws, "accuracy_matrix": entries(reduced)}
    if isinstance(logger, WandbLogger):
        if not reduced.many:
            tables["records"] = records.read(path)
        for name, table in tables.items():
            logger.log_table(name, dataframe=table)
        for figure in figures:
            logger.log_image(figure.stem, [str(figure)])
        # W&B's own sweeps read their metric from the summary.
        logger.experiment.summary.update(metrics)
    elif isinstance(logger, MLFlowLogger):
        logger.log_metrics({re.sub(r"[^-./\w ]", "_", name): value for name, value in metrics.items()})
        for name, table in tables.items():
            logger.experiment.log_table(logger.run_id, data=table, artifact_file=f"{name}.json")
        for file in (path, *figures):
            logger.experiment.log_artifact(logger.run_id, str(file))
    elif isinstance(logger, TensorBoardLogger):
        for figure in figures:
            logger.experiment.add_image(figure.stem, imread(figure)[..., :3], dataformats="HWC")
        merit = over_seeds(reduced.draws).round(2)
        lines = ["| " + " | ".join(map(str, line)) + " |" for line in merit.reset_index().itertuples(index=False)]
        heading = ["| " + " | ".join(["row", *merit]) + " |", "|" + "---|" * (1 + merit.shape[1])]
        logger.experiment.add_text("rows", "\n".join([*heading, *lines]))
        logger.log_hyperparams(logger.hparams, metrics, 0)
    else:
        logger.log_metrics(metrics, 0)


def merits(reduced: Reduced) -> dict[str, float]:
    """Give the figures of merit that are defined, as means over seeds.

    Args:
        reduced: The reduced records.

    Returns:
        `ROW/average_accuracy` (percent) and `ROW/forgetting` (points); a single row's are there without `ROW/` too.
    """
    rows = over_seeds(reduced.draws)[["average_accuracy", "forgetting"]]
    named = {f"{row}/{merit}": float(value) for row, line in rows.iterrows() for merit, value in line.items()}
    if len(rows) == 1:
        named |= {str(merit): float(value) for merit, value in rows.iloc[0].items()}
    return {name: value for name, value in named.items() if not math.isnan(value)}


def close(run: RunLogger | None) -> None:
    """End the logger; an exception on its way through the caller, a signal's too, marks the run as failed.

    Args:
        run: The run's logger, or None for no logging.
    """
    if run is None:
        return
    failed = sys.exc_info()[0] is not None
    run.logger.finalize("failed" if failed else "success")
    if isinstance(run.logger, WandbLogger):
        run.logger.experiment.finish(exit_code=int(failed))
