"""Weights & Biases: what tells runs apart, how a run ended, and the sweep."""

import shlex
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest
import yaml
from hydra import compose, initialize_config_dir
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from dua_lightning.__main__ import CONF
from dua_lightning.report.records import COLUMNS
from dua_lightning.report.wandb import WandbLogger, mean_matrices
from dua_lightning.run.stopping import Stopped
from tests.helpers.wandb_file import records

CONFIG = {
    "data": {"name": "digits"},
    "model": {"name": "mlp"},
    "fidelity": {"name": "paper"},
    "adapt": {"name": "none"},
    "method": {"name": "lwf", "label": "LwF"},
    "seed": 2,
}
SWEEP = Path(__file__).parents[2] / "experiments" / "wandb_sweep.yaml"


@pytest.mark.parametrize(("error", "code"), [(None, 0), (ValueError(), 1), (Stopped(2), 1)], ids=str)
def test_a_run_that_did_not_end_well_is_marked_as_failed(
    error: BaseException | None, code: int, tmp_path: Path
) -> None:
    logger = WandbLogger(tmp_path, CONFIG, "name")
    with suppress(ValueError, Stopped):
        try:
            if error is not None:
                raise error
        finally:
            logger.close()
    (path,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    (last,) = [record.exit for record in records(path) if record.WhichOneof("record_type") == "exit"]
    assert last.exit_code == code


@pytest.mark.parametrize(
    ("method", "job", "tags"),
    [
        (CONFIG["method"], "LwF", ["LwF", "digits", "mlp", "paper", "none", "mine"]),
        ({"rows": []}, "table", ["table", "digits", "mlp", "paper", "mine"]),
    ],
)
def test_runs_are_told_apart_by_group_job_type_and_tags(
    method: dict[str, object], job: str, tags: list[str], tmp_path: Path
) -> None:
    logger = WandbLogger(tmp_path, {**CONFIG, "method": method}, "study", tags=["mine"])
    logger.close()
    (path,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    (run,) = [record.run for record in records(path) if record.WhichOneof("record_type") == "run"]
    assert (run.run_group, run.job_type, run.display_name) == ("study", job, f"{job}, seed 2")
    assert sorted(run.tags) == sorted(tags)


def test_a_matrix_is_averaged_over_users_iterations_and_seeds() -> None:
    def record(row: str, user: str, seed: int, after: int, on: int, accuracy: float) -> tuple[object, ...]:
        return ("digits", "mlp", row, "mas", "none", row, "paper", user, 1, seed, after, on, accuracy)

    entries = [(1, 1), (2, 1), (2, 2)]
    lines = [
        record(row, user, seed, after, on, 10 * after + on + (user == "b") + 2 * seed)
        for row in ("y", "x")
        for user in "ab"
        for seed in (1, 2)
        for after, on in entries
    ]
    found = mean_matrices(pd.DataFrame(lines, columns=COLUMNS))
    expected = [(row, after, on, 10 * after + on + 3.5) for row in ("y", "x") for after, on in entries]
    assert list(found.itertuples(index=False, name=None)) == expected


def test_the_sweeps_agents_start_runs_that_exist_and_log_its_metric() -> None:
    sweep = yaml.safe_load(SWEEP.read_text(encoding="utf-8"))
    assert sweep["command"][-1] == "${args_no_hyphens}"
    assert sweep["metric"]["name"] == "average_accuracy"
    chosen = {name: {"value": parameter["values"][-1]} for name, parameter in sweep["parameters"].items()}
    arguments = create_sweep_command_args({"args": chosen})["args_no_hyphens"]
    start, overrides = sweep["command"][:3], [*sweep["command"][3:-1], *arguments]
    assert shlex.join(start) == "python -m dua_lightning"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", overrides)
    assert (cfg.method.name, cfg.importance.name, cfg.seed) == ("imm", "fim", 3)
    assert (cfg.logger.project, cfg.logger.mode) == (sweep["project"], "online")
