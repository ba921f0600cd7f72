"""A part of a logger for one of the trainings that a run's logger records."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only


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
