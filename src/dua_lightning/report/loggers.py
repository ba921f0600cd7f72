"""Lightning's loggers: one for each run, which takes the curves of every training and the results of the run.

`start` opens it, `curves` gives each training's Trainer its part of it, `results` logs tables, figures and figures of
merit, and `close` ends it.
"""

import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from matplotlib.image import imread

from dua_lightning.errors import InputError
from dua_lightning.report import logged, records
from dua_lightning.report.curves import EPOCH, place, several
from dua_lightning.report.reduce import Reduced, over_seeds

EXTRAS = ("wandb", "tensorboard", "mlflow")
"""The extras of this package that install what a logger needs."""
SEVERAL = "table"
"""The word in place of the row's label for a run of several rows."""
MODES = ("online", "offline", "shared", "disabled", "dryrun", "run")
"""The modes of W&B: `dryrun` is an old name of `offline`, and `run` of `online`."""
IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
"""MLflow's variables while a run is started."""
LONGEST_TAG, LONGEST_NAME = 64, 128
"""The characters that W&B takes for a tag or a job type, and for a name or a group."""

log = logging.getLogger(__name__)


@dataclass
class RunLogger:
    """The logger of a run.

    A service that fails in the middle, because the network is gone or a disk is full, does not end the work: nothing
    more is logged, and `close` says why.

    Args:
        logger: The logger.
        settings: The arguments that its class was called with.
        several_seeds: Whether the run has several seeds, which the names of curves then tell apart.
        failure: The reason of the first failure; empty while there is none.
    """

    logger: Logger
    settings: Mapping[str, Any]
    several_seeds: bool = False
    failure: str = ""

    def attempt(self, action: Callable[[], object]) -> None:
        """Log something, unless that has failed before.

        Args:
            action: A function that logs it.
        """
        if self.failure:
            return
        try:
            action()
        except Exception as error:
            # Each of the packages has errors of its own.
            self.failure = _reason(error)
            log.warning("%s has failed, and nothing more is logged (%s)", type(self.logger).__name__, self.failure)


class PrefixedLogger(Logger):
    """Logs to another logger under names with a prefix; when a training ends, the other logger stays open.

    Trainers call `finalize` at the end of each fit, which would end the run of a service such as MLflow.

    Args:
        run: The logger of the whole run.
        prefix: What stands before each metric's name, with a slash between.
        common: The metrics that keep their names.
    """

    def __init__(self, run: RunLogger, prefix: str, common: Sequence[str] = ()) -> None:
        super().__init__()
        self.run = run
        self.logger = run.logger
        self.prefix = prefix
        self.common = common

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
        named = {
            name if name in self.common else f"{self.prefix}/{name}": float(value) for name, value in metrics.items()
        }
        self.run.attempt(lambda: self.logger.log_metrics(named, step))

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Log nothing: the run's configuration is logged once, and a module's settings are part of it."""

    @rank_zero_only
    def save(self) -> None:
        """Save what the whole run's logger has."""
        self.run.attempt(self.logger.save)


def start(
    kind: Callable[..., Logger], settings: Mapping[str, Any], folder: Path, config: Mapping[str, Any], row: str
) -> RunLogger | None:
    """Make the logger of a run and open it, so that it fails before anything is trained.

    Args:
        kind: A class of Lightning loggers.
        settings: The arguments that it is called with, besides its folder and the names of the run.
        folder: The run's folder, in which the logger keeps its files.
        config: The configuration of the run in plain values, logged as its hyperparameters.
        row: The label of the run's row, or `table` for a run of several.

    Returns:
        The logger of the run; None where W&B is disabled.

    Raises:
        InputError: A package is missing, or the logger cannot be started with these settings.
    """
    if kind is WandbLogger and _mode(settings) == "disabled":
        return None
    # They announce settings that Lightning makes, each table of a new database, each experiment that is new in it, and
    # each time that they try again to reach a server.
    os.environ |= {"WANDB_SILENT": "true", "MLFLOW_LOGGING_LEVEL": "WARNING"}
    for name in ("lightning.pytorch.loggers.mlflow", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.ERROR)
    given = dict(settings)
    try:
        given |= {**_names(kind, settings, folder, config, row), "save_dir": str(folder)}
        if kind is WandbLogger:
            import wandb

            _make_room(folder)
            # It reads that it is silent.
            wandb.setup()
        with _impatient():
            logger = kind(**given)
            # W&B and MLflow begin their run here, CSVLogger makes its folder.
            _ = logger.experiment  # type: ignore[attr-defined]
            logger.log_hyperparams(dict(config))
    except InputError:
        raise
    except ModuleNotFoundError as error:
        missing = next((extra for extra in EXTRAS if extra in str(error)), None)
        install = f"pip install 'dua_lightning[{missing}]'" if missing else f"install it ({error})"
        raise InputError(
            f"{kind.__name__} needs a package that is not there; {install}, or use the logger csv"
        ) from error
    except Exception as error:
        # Each of the packages has errors of its own.
        raise InputError(
            f"{kind.__name__} cannot be started ({_reason(error)}); {_next_step(given)}, or use the logger csv"
        ) from error
    return RunLogger(logger, given, several(config["seed"]))


def _make_room(folder: Path) -> None:
    """Let W&B keep what it keeps in the home directory in the run's folder where the home cannot be written to."""
    if not os.access(Path.home(), os.W_OK):
        for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
            os.environ.setdefault(name, str(folder / "wandb"))


@contextmanager
def _impatient() -> Iterator[None]:
    """Let MLflow give up a server that does not answer within seconds; it would try for minutes, as it may later on."""
    given = {name: value for name, value in IMPATIENT.items() if name not in os.environ}
    os.environ |= given
    try:
        yield
    finally:
        for name in given:
            del os.environ[name]


def _names(
    kind: Callable[..., Logger], settings: Mapping[str, Any], folder: Path, config: Mapping[str, Any], row: str
) -> dict[str, Any]:
    """The arguments by which a service sorts runs, and the place of its files on this machine."""
    # Several rows have an adaptation each.
    axes = ("data", "model", "fidelity", *(["adapt"] if row != SEVERAL else []))
    tags = {"row": row, **{axis: str(config[axis]["name"]) for axis in axes}}
    title = f"{row}, seed {config['seed']}"
    if kind is WandbLogger:
        asked = settings.get("tags") or ()
        own = [asked] if isinstance(asked, str) else list(map(str, asked))
        if wrong := [tag for tag in own if not 1 <= len(tag) <= LONGEST_TAG]:
            raise InputError(f"W&B takes tags of 1 to {LONGEST_TAG} characters, got tags={wrong}; give others")
        # Labels of rows may be longer, which is not the fault of who made them.
        cut = (text[:LONGEST_TAG] for text in tags.values() if text)
        return {
            "group": config["name"][:LONGEST_NAME],
            "job_type": row[:LONGEST_TAG],
            "name": title[:LONGEST_NAME],
            "tags": list(dict.fromkeys([*cut, *own])),
            "mode": _mode(settings),
            # Lightning says it by an environment variable, which W&B may have read already.
            "offline": False,
        }
    if kind is MLFlowLogger:
        names = {"experiment_name": config["name"], "run_name": title, "tags": {**tags, **(settings.get("tags") or {})}}
        if settings.get("tracking_uri"):
            return names
        place = folder.resolve()
        return {**names, "tracking_uri": f"sqlite:///{place}/mlflow.db", "artifact_location": f"{place}/mlflow"}
    return {}


def _mode(settings: Mapping[str, Any]) -> str:
    """The mode of W&B: that of the environment, by which clusters and test machines rule all runs, or the settings'."""
    name, mode = "mode", settings.get("mode") or ("offline" if settings.get("offline") else "online")
    # An empty one is none, and W&B itself would refuse it.
    if os.environ.get("WANDB_MODE") or os.environ.pop("WANDB_MODE", ""):
        name, mode = "WANDB_MODE", os.environ["WANDB_MODE"]
    if mode not in MODES:
        raise InputError(
            f"{name}={mode} is no mode of WandbLogger; use online, offline or disabled, or use the logger csv"
        )
    return str(mode)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _next_step(given: Mapping[str, Any]) -> str:
    try:
        Path.home()
    except RuntimeError:
        return "set HOME to a folder"
    if given.get("mode") in ("online", "run", "shared"):
        return "log in by `wandb login` where there is a network, use logger.mode=offline"
    return "change its settings"


def curves(run: RunLogger | None, seed: int, training: str, task: str) -> Logger | Literal[False]:
    """Give the logger for the Trainer of one task's training.

    Loggers that write files get a folder of their own for each training, so that tools lay the curves over each other;
    in one run of another service the names of metrics begin with the training's. The seed is part of either where the
    run has several, so that runs of one seed lie over each other.

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
    *parents, last = place(seed if run.several_seeds else None, training, task)
    if isinstance(run.logger, CSVLogger | TensorBoardLogger):
        where = {"save_dir": run.logger.log_dir, "name": "/".join(parents), "version": last}
        return type(run.logger)(**{**run.settings, **where})
    prefix = "/".join([*parents, last])
    if isinstance(run.logger, WandbLogger):
        experiment = run.logger.experiment
        run.attempt(lambda: experiment.define_metric(f"{prefix}/*", step_metric=EPOCH))
        # A panel of W&B has one metric on its axis.
        return PrefixedLogger(run, prefix, common=[EPOCH])
    return PrefixedLogger(run, prefix)


def results(run: RunLogger | None, reduced: Reduced, costs: pd.DataFrame, path: Path, figures: Sequence[Path]) -> None:
    """Log the results of a run: figures of merit, figures, and curves and tables where the logger has a place for them.

    Args:
        run: The run's logger, or None for no logging.
        reduced: The reduced records.
        costs: A line for each `CostRecord`.
        path: The file of the records; every accuracy is logged from it where users are few.
        figures: The files of the figures.
    """
    if run is not None:
        run.attempt(lambda: _results(run.logger, reduced, costs, path, figures))


def _results(logger: Logger, reduced: Reduced, costs: pd.DataFrame, path: Path, figures: Sequence[Path]) -> None:
    metrics = logged.merits(reduced)
    if isinstance(logger, WandbLogger):
        for tasks, values in logged.learning(reduced):
            for name in values:
                logger.experiment.define_metric(name, step_metric=logged.LEARNT)
            logger.log_metrics({logged.LEARNT: tasks, **values})
        tables = dict(logged.tables(reduced, costs))
        if not reduced.many:
            tables[logged.RECORDS] = records.read(path)
        for name, table in tables.items():
            logger.log_table(name, dataframe=table)
        for figure in figures:
            logger.log_image(figure.stem, [str(figure)])
        # W&B's own sweeps read their metric from the summary.
        logger.experiment.summary.update(metrics)
    elif isinstance(logger, MLFlowLogger):
        for tasks, values in logged.learning(reduced):
            logger.log_metrics(_allowed(values), tasks)
        logger.log_metrics(_allowed(metrics))
        for name, table in logged.tables(reduced, costs).items():
            logger.experiment.log_table(logger.run_id, data=table, artifact_file=f"{name}.json")
        for file in (path, *figures):
            logger.experiment.log_artifact(logger.run_id, str(file))
    elif isinstance(logger, TensorBoardLogger):
        for tasks, values in logged.learning(reduced):
            logger.log_metrics(values, tasks)
        for figure in figures:
            logger.experiment.add_image(figure.stem, imread(figure)[..., :3], dataformats="HWC")
        merit = over_seeds(reduced.draws).round(2)
        lines = ["| " + " | ".join(map(str, line)) + " |" for line in merit.reset_index().itertuples(index=False)]
        heading = ["| " + " | ".join(["row", *merit]) + " |", "|" + "---|" * (1 + merit.shape[1])]
        logger.experiment.add_text(logged.ROWS, "\n".join([*heading, *lines]))
        logger.log_hyperparams(logger.hparams, metrics, 0)
    else:
        logger.log_metrics(metrics, 0)


def _allowed(metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics by names that MLflow takes."""
    return {re.sub(r"[^-./\w ]", "_", name): value for name, value in metrics.items()}


def close(run: RunLogger | None) -> None:
    """End the logger; an exception on its way through the caller, a signal's too, marks the run as failed.

    Args:
        run: The run's logger, or None for no logging.

    Raises:
        InputError: Something could not be logged, and no other exception is on its way.
    """
    if run is None:
        return
    failed = sys.exc_info()[0] is not None
    try:
        run.logger.finalize("failed" if failed else "success")
        if isinstance(run.logger, WandbLogger):
            run.logger.experiment.finish(exit_code=int(failed))
    except Exception as error:
        run.failure = run.failure or _reason(error)
    if run.failure and not failed:
        raise InputError(
            f"{type(run.logger).__name__} could not log everything ({run.failure}); the results are in the run's "
            "folder, and the same command logs them again"
        )
