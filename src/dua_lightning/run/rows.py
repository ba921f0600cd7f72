"""The rows of the table: what a configuration asks for, as objects."""

from dataclasses import dataclass
from typing import Any, Literal

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from dua_lightning.adapt import Adapt
from dua_lightning.errors import InputError
from dua_lightning.importance import Importance
from dua_lightning.merge import Merge
from dua_lightning.regularise import Regulariser
from dua_lightning.run.build import build, check, plain

BUFFERS = ("last", "task", "mean", "server")
"""Choices of `merge.batch_norm`: whose running statistics a merged model carries."""


Training = Literal["sequential", "joint"]
Measurer = Literal["user", "server", "none"]
MeasuredOn = Literal["validation", "train_and_validation"]
"""Choices of `method.training`, `method.prior` and `fidelity.imm_data`."""


@dataclass(frozen=True)
class Row:
    """One row: a server training, who measures psi with what, chi and phi.

    `method`, `importance` and `adapt` are the choices' names (`none` for an importance that is not measured), `label`
    the row's name in tables, `experts` that of its training; `settings` are those of the four verbs in plain values.
    `training_data_too`: the server measures on its training data as well; `recalibrate`: it takes the merged model's
    batch-norm statistics anew on its validation data.
    """

    method: str
    importance: str
    adapt: str
    label: str
    experts: str
    training: Training
    regulariser: Regulariser
    prior: Measurer
    psi: Importance | None
    training_data_too: bool
    chi: Merge
    recalibrate: bool
    phi: Adapt
    settings: dict[Literal["regulariser", "psi", "chi", "phi"], Any]


def expand(cfg: DictConfig) -> list[DictConfig]:
    """One configuration for each row that `cfg` asks for.

    A method with `rows` stands for several: each is composed anew with the choices it names in place of the command
    line's. A choice of importance or adaptation on the command line drops the rows that name another one.
    """
    if "rows" not in cfg.method:
        return [cfg]
    rows = check(cfg.method.rows, list[dict[str, str]], "method.rows")
    overrides = [(_axis(text), text) for text in HydraConfig.get().overrides.task]
    asked = {axis: text.partition("=")[2] for axis, text in overrides if axis in ("importance", "adapt")}
    # Composed anew, paths with the time of day in them would be other paths.
    paths = OmegaConf.to_container(cfg.paths, resolve=True)
    found = []
    for row in rows:
        if any(row.get(axis, choice) != choice for axis, choice in asked.items()):
            continue
        kept = [text for axis, text in overrides if axis not in ("method", "method.rows", *row)]
        composed = hydra.compose("config", [*kept, *(f"{axis}={choice}" for axis, choice in row.items())])
        composed.paths = paths
        found.append(composed)
    return found


def make(cfg: DictConfig) -> Row:
    """The row of a configuration with a single method; raises `InputError` for settings that cannot be used."""
    method = cfg.method
    buffers = OmegaConf.select(cfg, "merge.batch_norm")
    if buffers not in BUFFERS:
        raise InputError(f"merge.batch_norm={buffers} is not a choice; it has {', '.join(BUFFERS)}")
    psi = None if method.psi is None else build(method.psi, "importance", Importance)
    adapt, label = check(cfg.adapt.name, str, "adapt.name"), check(method.label, str, "method.label")
    own = method.adapt == adapt
    node, recalibrate = _merge(cfg)
    return Row(
        method=check(method.name, str, "method.name"),
        importance="none" if psi is None else check(method.psi.name, str, "importance.name"),
        adapt=adapt,
        label=label if own else f"{label} + {check(cfg.adapt.label, str, 'adapt.label')}",
        experts=check(method.experts, str, "method.experts"),
        training=check(method.training, Training, "method.training"),
        regulariser=build(method.regulariser, "method.regulariser", Regulariser),
        prior=check(method.prior, Measurer, "method.prior"),
        psi=psi,
        training_data_too=check(cfg.fidelity.imm_data, MeasuredOn, "fidelity.imm_data") == "train_and_validation",
        chi=build(node, "method.merge", Merge),
        recalibrate=recalibrate,
        phi=build(cfg.adapt, "adapt", Adapt),
        settings={
            "regulariser": plain(method.regulariser),
            "psi": None if psi is None else plain(method.psi),
            "chi": plain(node),
            "phi": plain(cfg.adapt),
        },
    )


def _merge(cfg: DictConfig) -> tuple[Any, bool]:
    """The merge's node, and whether the server's own batch-norm statistics replace those that it would take."""
    node = cfg.method.merge
    if not isinstance(node, DictConfig) or node.get("batch_norm") != "server":
        return node, False
    node = node.copy()
    node.batch_norm = "task"
    return node, True


def _axis(override: str) -> str:
    return override.partition("=")[0].lstrip("+")
