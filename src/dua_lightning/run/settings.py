"""The configuration as plain typed values: read once, where a run begins, and from there on nobody sees omegaconf."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from dua_lightning.errors import InputError
from dua_lightning.run.build import Choice, check, typed

Measurer = Literal["user", "server", "other", "oracle", "none"]
"""The one who measures the prior.

They are the user, the server, or another user: the next one of the benchmark. The oracle measures on the very images of
the user that are scored.
"""
TaskOrder = Literal["sequential", "joint"]
"""Whether tasks are learnt one after another, or jointly as one."""

AdaptAfter = Literal["each_task", "last_task"]
"""Whether rows that adapt are adapted and evaluated after each task, or after the last one alone."""

Where = Literal["server", "device", "encrypted"]
"""The place of a merge: the server, the user's device, or the server under encryption."""

Objective = Literal["average_accuracy", "forgetting"]
"""The figure of merit that a sweeper optimises."""

VERBS = ("regularise", "importance", "merge", "statistics", "adapt")
"""The groups of choices that a row is made of."""
OF_ROWS = ("method", *VERBS, "release", "prior", "training")
"""The settings that a method's rows may name."""
WHERE = "where"
"""The setting that names the place of a merge."""
MOST_THREADS = 1024
"""No processor has more threads; the system refuses a process with far more."""


AS_MEASURED = Choice("release", {"name": "none", "_target_": "dua_lightning.privacy.release.Plain"})
"""The release of runs of versions that had none."""


@dataclass(frozen=True)
class Method:
    """A combination of the paper, by the names of its own choices; see `conf/method`.

    Args:
        name: The method's name in records.
        label: Its name in tables; where a prior is measured, the importance's label stands before it, unless the method
            has an importance of its own.
        prior: Who measures the prior.
        training: Whether experts are trained one after another or jointly.
        regularise: Its regulariser.
        merge: Its merge.
        statistics: Its step after the merge.
        adapt: Its adaptation.
        importance: Its importance, if it has one of its own.
    """

    name: str
    label: str
    prior: Measurer
    training: TaskOrder
    regularise: str
    merge: str
    statistics: str = "last"
    adapt: str = "none"
    importance: str | None = None


@dataclass(frozen=True)
class Fidelity:
    """The source to which the behaviour is faithful: the paper or the authors' release.

    Args:
        name: The name in records.
        imm_data: The data on which a server measures its priors.
    """

    name: str
    imm_data: Literal["validation", "train_and_validation"]


@dataclass(frozen=True)
class Paths:
    """The folders that a run reads from the configuration.

    Args:
        store_dir: The folder of the store.
    """

    store_dir: str


@dataclass(frozen=True)
class Kept:
    """The things that the store keeps besides experts and results.

    Args:
        priors: Whether it keeps priors.
    """

    priors: bool


@dataclass(frozen=True)
class RowSettings:
    """The settings of one row of the table.

    Args:
        method: The method that names it.
        prior: Who measures the prior.
        training: Whether experts are trained one after another or jointly.
        regularise: The choice of the regulariser.
        importance: The choice of the importance.
        merge: The choice of the merge.
        statistics: The choice of the step after the merge.
        adapt: The choice of the adaptation.
        release: The choice of the step between a user's own prior and the wire.
        where: The place of the merge.
    """

    method: Method
    prior: Measurer
    training: TaskOrder
    regularise: Choice
    importance: Choice
    merge: Choice
    statistics: Choice
    adapt: Choice
    release: Choice = AS_MEASURED
    where: Where = "server"


@dataclass(frozen=True)
class TrainingSettings:
    """The settings by which experts are trained.

    Args:
        trainer: The choice of Lightning's Trainer.
        optimizer: The choice of the optimizer.
        scheduler: The choice of the scheduler.
        callbacks: Callbacks by the names that they have in the configuration.
        reset_batch_norm: Whether every fit starts from batch-norm layers as they are built.
    """

    trainer: Choice
    optimizer: Choice
    scheduler: Choice
    callbacks: Mapping[str, Choice]
    reset_batch_norm: bool


@dataclass(frozen=True)
class SeedSettings:
    """The settings of one seed of a run. They are plain values: any process makes the same of them.

    Args:
        seed: The seed.
        data: The choice of the benchmark.
        simulate: The choice of simulated users in the place of the benchmark's own, or of nothing.
        model: The choice of the network.
        training: The settings of the trainings.
        fidelity: The source to which the behaviour is faithful.
        store_dir: The folder of the store.
        keep_priors: Whether the store keeps priors.
        adapt_after: When rows that adapt are adapted and evaluated.
        rows: The settings of each row.
    """

    seed: int
    data: Choice
    simulate: Choice
    model: Choice
    training: TrainingSettings
    fidelity: Fidelity
    store_dir: Path
    keep_priors: bool
    adapt_after: AdaptAfter
    rows: tuple[RowSettings, ...]


@dataclass(frozen=True)
class Settings:
    """The settings of a run.

    Args:
        name: The run's name.
        threads: The number of torch's threads; `None` for PyTorch's own choice.
        engine: The choice of the engine.
        logger: The choice of the logger.
        seeds: The settings of each seed.
        everything: The whole configuration, for loggers.
    """

    name: str
    threads: int | None
    engine: Choice
    logger: Choice
    seeds: tuple[SeedSettings, ...]
    everything: Mapping[str, Any]


def read(cfg: DictConfig) -> Settings:
    """Read the settings of a run.

    Args:
        cfg: The configuration that Hydra composed. A method with `rows` stands for several rows, see `expand`.

    Returns:
        The settings; none of them refers to `cfg`.

    Raises:
        InputError: For a value that cannot be used, with its place, and where no row is left.
    """
    everything = _plain(cfg)
    # Nothing reads it before the end of the run.
    check(everything.get("objective"), Objective, "objective")
    configs = expand(cfg)
    return Settings(
        name=str(everything.get("name")),
        threads=_threads(everything.get("threads")),
        engine=_choice(everything, "engine"),
        logger=_choice(everything, "logger"),
        seeds=tuple(of_seed(configs, seed) for seed in _seeds(everything.get("seed"))),
        everything=everything,
    )


def of_seed(configs: list[DictConfig], seed: int) -> SeedSettings:
    """Read the settings of one seed.

    Args:
        configs: The configuration of each row.
        seed: The seed.

    Returns:
        The settings.

    Raises:
        InputError: For a value that cannot be used, with its place.
    """
    values = [_plain(_with_seed(config, seed)) for config in configs]
    common = values[0]
    return SeedSettings(
        seed=seed,
        data=_choice(common, "data"),
        simulate=_choice(common, "simulate"),
        model=_choice(common, "model"),
        training=TrainingSettings(
            **{group: _choice(common, group) for group in ("trainer", "optimizer", "scheduler")},
            callbacks={
                name: Choice(f"callbacks.{name}", node) for name, node in _group(common, "callbacks").items() if node
            },
            reset_batch_norm=check(common.get("reset_batch_norm"), bool, "reset_batch_norm"),
        ),
        fidelity=typed(common.get("fidelity"), Fidelity, "fidelity"),
        store_dir=Path(typed(common.get("paths"), Paths, "paths").store_dir),
        keep_priors=typed(common.get("store"), Kept, "store").priors,
        adapt_after=check(common.get("adapt_after"), AdaptAfter, "adapt_after"),
        rows=tuple(
            RowSettings(
                method=typed(row.get("method"), Method, "method"),
                prior=check(row.get("prior"), Measurer, "prior"),
                training=check(row.get("training"), TaskOrder, "training"),
                **{group: _choice(row, group) for group in (*VERBS, "release")},
                where=check(_group(row, "merge").get(WHERE, "server"), Where, f"merge.{WHERE}"),
            )
            for row in values
        ),
    )


def expand(cfg: DictConfig) -> list[DictConfig]:
    """Compose one configuration for each row that a configuration asks for.

    A method with `rows` stands for several: each is composed anew with the choices that it names. A choice of a verb on
    the command line keeps the rows that agree with it, and is the choice of those that do not name that verb.

    Args:
        cfg: The configuration that Hydra composed.

    Returns:
        The configuration of each row.

    Raises:
        InputError: A row names something else than verbs, or no row agrees with the command line.
    """
    if "rows" not in cfg.method:
        return [cfg]
    rows = check(_plain(cfg)["method"]["rows"], list[dict[str, str | int | float | bool]], "method.rows")
    given = HydraConfig.get().overrides
    overrides = [(_axis(text), text) for text in given.task]
    asked = {axis: text.partition("=")[2] for axis, text in overrides if axis in OF_ROWS[1:]}
    where = [text for text in given.hydra if _axis(text) == "hydra.searchpath"]
    # Composed anew, paths with the time of day in them would be other paths.
    paths = OmegaConf.to_container(cfg.paths, resolve=True)
    found = []
    for row in rows:
        if other := [axis for axis in row if axis.partition(".")[0] not in OF_ROWS]:
            raise InputError(f"method.rows names {other[0]}={row[other[0]]}; a row is made of {', '.join(OF_ROWS)}")
        if any(row.get(axis, choice) != choice for axis, choice in asked.items()):
            continue
        kept = [text for axis, text in overrides if axis not in ("method", "method.rows", *row)]
        composed = hydra.compose("config", [*where, *kept, *(f"{axis}={choice}" for axis, choice in row.items())])
        composed.paths = paths
        found.append(composed)
    if not found:
        choices = " ".join(f"{axis}={choice}" for axis, choice in asked.items())
        raise InputError(f"no row of the method agrees with {choices}; leave one of them out")
    return found


def _plain(cfg: DictConfig) -> dict[str, Any]:
    plain: dict[str, Any] = _at_home(OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True))
    return plain


def _at_home(value: Any) -> Any:
    """Put the home folder for the ~ at the start of a path, which no shell does within a setting."""
    if isinstance(value, dict):
        return {key: _at_home(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_at_home(item) for item in value]
    return os.path.expanduser(value) if isinstance(value, str) and value.startswith("~/") else value


def _group(values: Mapping[str, Any], group: str) -> Mapping[str, Any]:
    node = values.get(group)
    if not isinstance(node, Mapping):
        raise InputError(f"{group}={node} cannot be used: it is a group of settings")
    return node


def _choice(values: Mapping[str, Any], group: str) -> Choice:
    node = _group(values, group)
    # A target of null is the choice of nothing, where a group has one.
    if not isinstance(node.get("_target_", 0), str | None):
        raise InputError(f"{group}={dict(node)} cannot be used: it is a group of settings with a _target_")
    return Choice(group, without_where(node) if group == "merge" else node)


def without_where(node: Mapping[str, Any]) -> Mapping[str, Any]:
    """Take the place of a merge, which the program reads, from the settings of the merge.

    Args:
        node: The settings, in plain values.

    Returns:
        The settings of the class or function that makes the merge.
    """
    return {key: value for key, value in node.items() if key != WHERE}


def _with_seed(cfg: DictConfig, seed: int) -> DictConfig:
    copy = cfg.copy()
    copy.seed = seed
    return copy


def _threads(value: Any) -> int | None:
    threads: int | None = check(value, int | None, "threads")
    if threads is not None and not 1 <= threads <= MOST_THREADS:
        raise InputError(
            f"threads={threads} cannot be used: it is at least 1 and at most {MOST_THREADS}, or null for PyTorch's own "
            "choice"
        )
    return threads


def _seeds(value: Any) -> list[int]:
    if not isinstance(value, list):
        return [check(value, int, "seed")]
    seeds: list[int] = check(value, list[int], "seed")
    if not seeds or len(set(seeds)) < len(seeds):
        raise InputError(f"seed={seeds} cannot be used: a list of seeds has at least 1, each once")
    return seeds


def _axis(override: str) -> str:
    return override.partition("=")[0].lstrip("+")
