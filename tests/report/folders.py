"""Folders as runs and sweeps leave them, with results made by hand."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from dua_lightning.report import records
from dua_lightning.report.records import CostRecord, Record
from dua_lightning.store.files import write_text
from tests.report.test_tables import made

ROWS = [{"method": "racl", "importance": "mas"}, {"method": "imm", "importance": "mas"}, {"method": "joint"}]
SETTINGS = {
    "data": {"name": "digits", "tasks": 3},
    "model": {"name": "mlp"},
    "method": {"rows": ROWS},
    "trainer": {"lr": 0.001},
    "paths": {"output_dir": "out"},
    "seed": [1, 2, 3],
}
GIVEN = ["+experiment=digits", "paths.output_dir=out"]
EPOCHS = "seed,experts,task,epoch,train_loss,val_accuracy,lr\n" + "".join(
    f"{seed},L2-transfer,{task},{epoch},0.5,{50 + 10 * epoch},0.001\n"
    for seed in (1, 2)
    for task in ("0-1", "2-3")
    for epoch in (1, 2, 3)
)
LOG = "2026-01-01 INFO display: seed 1: L2-transfer experts trained in 10.5 s, validation %: 0-1 80.0\n"


def run(
    folder: Path,
    found: Sequence[Record] | None = None,
    settings: dict[str, Any] | None = None,
    given: Sequence[str] = GIVEN,
) -> Path:
    """A finished run: by default three rows, two users, two draws and three seeds."""
    found = made() if found is None else found
    records.write(found, folder / "records.csv")
    costs = [
        CostRecord("digits", "mlp", "finetune", "MAS-RACL", user, 1, 1, "0-1", 1000, 2048, 0.25, 2**20) for user in "ab"
    ]
    records.write(costs, folder / "costs.csv")
    write_text(folder / "training.csv", EPOCHS)
    write_text(folder / "dua.log", LOG)
    write_text(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create({**SETTINGS, **(settings or {})})))
    write_text(folder / ".hydra" / "overrides.yaml", OmegaConf.to_yaml(OmegaConf.create(list(given))))
    environment = {"command": ["python"], "dua_lightning": "0.1.0", "git_commit": "abc", "packages": {"torch": "2.11"}}
    write_text(folder / "environment.json", json.dumps({**environment, "git_modified": False, "platform": "Linux"}))
    write_text(folder / "done.json", "{}")
    return folder


def sweep(folder: Path, cells: Sequence[tuple[Sequence[Record], dict[str, Any], Sequence[str]]]) -> Path:
    """A finished sweep: a folder for each cell, and the table of all of them."""
    for place, cell in enumerate(cells):
        run(folder / str(place), *cell)
    records.write([record for found, _, _ in cells for record in found], folder / "records.csv")
    return folder


def of(method: str, seed: int | None = None, **changes: Any) -> list[Record]:
    """The results of one row, of one seed or all, changed."""
    chosen = [r for r in made() if r.method == method and seed in (None, r.seed)]
    return [replace(record, **changes) for record in chosen]
