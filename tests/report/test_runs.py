"""Runs and sweeps read back: which jobs count, what is told apart, what is refused, how each is made again."""

import json
import shutil
from pathlib import Path

import pytest

from dua_lightning.errors import InputError
from dua_lightning.report.records import TrainingRecord
from dua_lightning.report.reduce import trainings
from dua_lightning.report.runs import read_runs, study
from tests.report import folders


def job(method: str, seed: int, **optimizer: float) -> tuple[list[object], dict[str, object], list[str]]:
    settings = {"method": {"name": method}, "seed": seed, "optimizer": {"lr": 0.001, **optimizer}}
    return folders.of(method, seed), settings, [f"method={method}", f"seed={seed}"]


def test_a_run_is_read_whole(tmp_path: Path) -> None:
    (run,) = read_runs(folders.run(tmp_path / "run"))
    assert len(run.results) == 3 * 2 * 2 * 3
    assert (run.settings["optimizer.lr"], run.settings["seed"]) == (0.001, [1, 2, 3])
    assert len(run.costs) == 2
    assert [TrainingRecord(**line) for line in run.trainings.to_dict("records")] == folders.TRAININGS
    curve = run.curves[(run.curves["seed"] == 2) & (run.curves["task"] == "2-10")]
    assert list(curve["epoch"]) == [1, 2, 3]
    assert list(curve["val_accuracy"]) == [60.0, 70.0, 80.0]
    assert list(curve["train_loss"]) == [0.5] * 3


def test_trainings_are_summed_over_tasks(tmp_path: Path) -> None:
    first, second = trainings(study([folders.run(tmp_path / "run")]).trainings).to_dict("records")
    assert first == {
        "experts": "L2-transfer",
        "seed": 1,
        "tasks": 2,
        "epochs": 6,
        "seconds": 5.0,
        "validation accuracy": 83.5,
    }
    assert (second["seed"], second["seconds"]) == (2, 10.0)


def test_the_curve_of_a_repeated_run_is_that_of_its_latest_version(tmp_path: Path) -> None:
    folder = folders.run(tmp_path / "run")
    (first, *_) = folder.rglob("seed_1/L2-transfer/0-1/metrics.csv")
    again = Path(str(first).replace("version_0", "version_1"))
    again.parent.mkdir(parents=True)
    again.write_text("epoch,train_loss,val_accuracy\n0,0.1,99\n")
    (curve,) = (run.curves for run in read_runs(folder))
    assert list(curve[(curve["seed"] == 1) & (curve["task"] == "0-1")]["val_accuracy"]) == [99]


def test_the_curves_of_a_run_of_one_seed_have_no_seed_in_their_place(tmp_path: Path) -> None:
    found = []
    for seed in (2, [2]):
        folder = folders.run(tmp_path / str(seed), settings={"seed": seed})
        for path in list(folder.rglob("seed_2/*/*/metrics.csv")):
            (new := folder / "csv/version_1" / "/".join(path.parts[-3:])).parent.mkdir(parents=True)
            path.rename(new)
        (run,) = read_runs(folder)
        found.append(run.curves[run.curves["seed"] == 2])
    assert [len(curves) for curves in found] == [6, 6]
    assert len(study([folders.run(tmp_path / "earlier", folders.of("imm", 1), {"seed": 1})]).curves)


def test_a_run_needs_neither_costs_nor_curves(tmp_path: Path) -> None:
    folder = folders.run(tmp_path / "run")
    shutil.rmtree(folder / "csv")
    assert len(study([folder]).curves) == 0
    assert len(study([folder]).trainings) == 4
    for name in ("costs.csv", "trainings.csv", ".hydra/overrides.yaml"):
        (folder / name).unlink()
    found = study([folder])
    assert (len(found.costs), len(found.curves), len(found.trainings)) == (0, 0, 0)


def test_of_a_sweep_only_the_jobs_of_its_table_count(tmp_path: Path) -> None:
    jobs = [job(method, seed) for method in ("racl", "imm") for seed in (1, 2)]
    folder = folders.sweep(tmp_path / "sweep", jobs)
    folders.run(folder / "10", folders.of("joint"))
    assert [run.folder.name for run in study([folder]).runs] == ["0", "1", "2", "3"]
    assert set(study([folder]).reduced.draws["label"]) == {"MAS-RACL", "MAS-IMM"}


def test_a_sweep_without_a_table_has_the_jobs_that_finished(tmp_path: Path) -> None:
    folder = folders.sweep(tmp_path / "sweep", [job("racl", 1), job("racl", 2)])
    (folder / "records.csv").unlink()
    (folder / "1" / "done.json").unlink()
    assert [run.folder.name for run in read_runs(folder)] == ["0"]


def test_what_failed_or_was_stopped_is_named(tmp_path: Path) -> None:
    folder = folders.sweep(tmp_path / "sweep", [job("racl", 1)])
    (folder / "1").mkdir()
    (folder / "1" / "failed.json").write_text(json.dumps({"reason": "no room"}))
    stopped = folders.run(tmp_path / "stopped", folders.of("imm", 1))
    assert study([folder, stopped]).missing == ("job 1: no room", f"{stopped}: seed 2", f"{stopped}: seed 3")


def test_the_same_run_given_twice_counts_once(tmp_path: Path) -> None:
    folder = folders.run(tmp_path / "run")
    found = study([folder, folder])
    assert len(found.reduced.draws) == 3 * 2 * 2 * 3
    assert (len(found.trainings), len(found.curves)) == (4, 12)


def test_rows_of_one_name_are_told_apart_by_their_settings(tmp_path: Path) -> None:
    changed = [
        (folders.of("racl", 1, accuracy=50.0), {"optimizer": {"lr": 0.01}, "method": {"name": "racl"}}, []),
        (folders.of("racl", 1), {"method": {"name": "racl"}}, []),
        (folders.of("imm", 1), {"method": {"name": "imm"}}, []),
    ]
    found = study([folders.sweep(tmp_path / "sweep", changed)])
    assert set(found.reduced.draws["label"]) == {"MAS-RACL, lr=0.01", "MAS-RACL, lr=0.001", "MAS-IMM"}
    for table in (found.trainings, found.curves):
        assert set(table["experts"]) == {"L2-transfer, lr=0.01", "L2-transfer, lr=0.001"}


def test_two_results_by_the_same_settings_are_refused(tmp_path: Path) -> None:
    a, b = folders.run(tmp_path / "a"), folders.run(tmp_path / "b", folders.of("racl", accuracy=50.0))
    with pytest.raises(InputError, match="two results of MAS-RACL, user a, seed 1"):
        study([a, b])


def test_each_row_and_seed_has_its_command(tmp_path: Path) -> None:
    (run,) = read_runs(folders.run(tmp_path / "run", given=["+experiment=digits", "threads=2", "paths.output_dir=out"]))
    found = dict(run.commands())
    program = "dua +experiment=digits threads=2"
    assert found["all of it"] == program
    assert found["method=racl importance=mas, seed 2"] == f"{program} method=racl importance=mas seed=2"
    assert found["method=joint, seed 3"] == f"{program} method=joint seed=3"
    assert len(found) == 1 + 3 * 3


def test_what_the_command_line_dropped_and_replaced_has_no_command(tmp_path: Path) -> None:
    given = ["method=all", "importance=fim", "seed=[1,2,3]"]
    (run,) = read_runs(folders.run(tmp_path / "run", given=given))
    commands = list(dict(run.commands()).values())[1:]
    assert commands == [f"dua importance=fim method=joint seed={seed}" for seed in (1, 2, 3)]


def test_a_job_has_one_command(tmp_path: Path) -> None:
    (run,) = read_runs(folders.sweep(tmp_path / "sweep", [job("racl", 1)]))
    assert dict(run.commands()) == {"all of it": "dua method=racl seed=1"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.yaml", "a: ["),
        ("config.yaml", "\x00"),
        ("environment.json", "[]"),
        ("environment.json", "{"),
        ("records.csv", "a,b\n1,2\n"),
        ("costs.csv", "a,b\n1,2\n"),
        ("costs.csv", ""),
        ("trainings.csv", "seed\n1\n"),
        ("trainings.csv", ""),
        ("csv/version_0/seed_1/L2-transfer/0-1/metrics.csv", ""),
        ("csv/version_0/seed_1/L2-transfer/0-1/metrics.csv", "epoch\n1\n"),
        (".hydra/overrides.yaml", "{"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(name: str, text: str, tmp_path: Path) -> None:
    folder = folders.run(tmp_path / "run")
    (folder / name).write_text(text)
    with pytest.raises(InputError) as refused:
        study([folder])
    assert str(folder / name) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(InputError, match="not the folder of a run"):
            study([folder])
    shutil.rmtree(folders.run(tmp_path / "run") / ".hydra")
    (tmp_path / "run" / "environment.json").unlink()
    with pytest.raises(InputError, match="environment"):
        study([tmp_path / "run"])
