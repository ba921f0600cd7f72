"""The rows of the table: what a configuration asks for, as objects."""

from dataclasses import dataclass
from typing import Any, Literal

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from dua_lightning.adapt import Adapt
from dua_lightning.build import build, plain
from dua_lightning.errors import InputError
from dua_lightning.importance import Importance
from dua_lightning.merge import Merge
from dua_lightning.methods import Regulariser

BUFFERS = ("last", "task", "mean", "server")
"""Choices of `merge.batch_norm`: whose running statistics a merged model carries."""


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
    training: Literal["sequential", "joint"]
    regulariser: Regulariser
    prior: Literal["user", "server", "none"]
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
    overrides = [(_axis(text), text) for text in HydraConfig.get().overrides.task]
    asked = {axis: text.partition("=")[2] for axis, text in overrides if axis in ("importance", "adapt")}
    # Composed anew, paths with the time of day in them would be other paths.
    paths = OmegaConf.to_container(cfg.paths, resolve=True)
    found = []
    for row in cfg.method.rows:
        if any(row.get(axis, choice) != choice for axis, choice in asked.items()):
            continue
        kept = [text for axis, text in overrides if axis != "method" and axis not in row]
        composed = hydra.compose("config", [*kept, *(f"{axis}={choice}" for axis, choice in row.items())])
        composed.paths = paths
        found.append(composed)
    return found


def make(cfg: DictConfig) -> Row:
    """The row of a configuration with a single method; raises `InputError` for settings that cannot be used."""
    method = cfg.method
    own = method.adapt == cfg.adapt.name
    merge = _with_buffers(cfg)
    if cfg.merge.batch_norm not in BUFFERS:
        raise InputError(f"merge.batch_norm={cfg.merge.batch_norm} is not a choice; it has {', '.join(BUFFERS)}")
    return Row(
        method=method.name,
        importance="none" if method.psi is None else method.psi.name,
        adapt=cfg.adapt.name,
        label=method.label if own else f"{method.label} + {cfg.adapt.label}",
        experts=method.experts,
        training=method.training,
        regulariser=build(method.regulariser, "method.regulariser"),
        prior=method.prior,
        psi=None if method.psi is None else build(method.psi, "importance"),
        training_data_too=cfg.fidelity.imm_data == "train_and_validation",
        chi=build(merge, "method.merge"),
        recalibrate="batch_norm" in method.merge and cfg.merge.batch_norm == "server",
        phi=build(cfg.adapt, "adapt"),
        settings={
            "regulariser": plain(method.regulariser),
            "psi": None if method.psi is None else plain(method.psi),
            "chi": plain(merge),
            "phi": plain(cfg.adapt),
        },
    )


def _with_buffers(cfg: DictConfig) -> DictConfig:
    """The merge's node, with the rule for batch-norm buffers if it has one; the server's own replaces any buffers."""
    node: DictConfig = cfg.method.merge.copy()
    if "batch_norm" in node and node.batch_norm == "server":
        node.batch_norm = "task"
    return node


def _axis(override: str) -> str:
    return override.partition("=")[0].lstrip("+")
