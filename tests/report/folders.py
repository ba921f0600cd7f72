"""Folders as runs and sweeps leave them, with results made by hand."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from dua_lightning.report import curves, records, runs
from dua_lightning.report.records import CostRecord, Record, TrainingRecord
from dua_lightning.store.files import write_text
from tests.report.test_tables import made

ROWS = [{"method": "racl", "importance": "mas"}, {"method": "imm", "importance": "mas"}, {"method": "joint"}]
SETTINGS = {
    "data": {"name": "digits", "tasks": 3},
    "model": {"name": "mlp"},
    "method": {"rows": ROWS},
    "optimizer": {"lr": 0.001},
    "paths": {"output_dir": "out"},
    "seed": [1, 2, 3],
}
GIVEN = ["+experiment=digits", "paths.output_dir=out"]
TRAININGS = [
    TrainingRecord(seed, "L2-transfer", task, 3, 2.5 * seed, 80.0 + len(task))
    for seed in (1, 2)
    for task in ("0-1", "2-10")
]
COSTS = [
    CostRecord("digits", "mlp", "finetune", "MAS-RACL", user, 1, 1, "0-1", "none", 1000, 2048, 0.25, 2**20)
    for user in "ab"
]
CURVE = "epoch,lr-SGD,step,train_loss,val_accuracy\n" + "".join(
    f"{epoch},,{step},,{60 + 10 * epoch}\n{epoch},,{step},0.5,\n,0.001,{step},,\n"
    for epoch, step in ((0, 9), (1, 19), (2, 29))
)
"""The curve of a training as Lightning writes it: each of several metrics has a line of its own."""


def run(
    folder: Path,
    found: Sequence[Record] | None = None,
    settings: dict[str, Any] | None = None,
    given: Sequence[str] = GIVEN,
) -> Path:
    """A finished run: by default three rows, two users, two draws and three seeds."""
    found = made() if found is None else found
    records.write(found, folder / "records.csv")
    records.write(COSTS, folder / "costs.csv")
    records.write(TRAININGS, folder / "trainings.csv")
    for training in TRAININGS:
        place = "/".join(curves.place(training.seed, training.experts, training.task))
        write_text(folder / "csv" / "version_0" / place / "metrics.csv", CURVE)
    write_text(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create({**SETTINGS, **(settings or {})})))
    write_text(folder / ".hydra" / "overrides.yaml", OmegaConf.to_yaml(OmegaConf.create(list(given))))
    environment = {"command": ["python"], "dua_lightning": "0.1.0", "git_commit": "abc", "packages": {"torch": "2.11"}}
    write_text(folder / "environment.json", json.dumps({**environment, "git_modified": False, "platform": "Linux"}))
    write_text(folder / "done.json", "{}")
    return folder


def sweep(folder: Path, jobs: Sequence[tuple[Sequence[Record], dict[str, Any], Sequence[str]]]) -> Path:
    """A finished sweep: a folder for each job, and the table of all of them."""
    runs.join([run(folder / str(place), *job) for place, job in enumerate(jobs)], folder / "records.csv")
    return folder


def of(method: str, seed: int | None = None, **changes: Any) -> list[Record]:
    """The results of one row, of one seed or all, changed."""
    chosen = [r for r in made() if r.method == method and seed in (None, r.seed)]
    return [replace(record, **changes) for record in chosen]
