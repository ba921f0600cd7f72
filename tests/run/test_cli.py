"""The command line end to end: every row of the table, sweeps, what is written, and bad input."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pytest
import yaml

from dua_lightning import __version__
from dua_lightning.metrics import average_accuracy, forgetting
from dua_lightning.report.records import COLUMNS, TrainingRecord, matrices, read, table
from dua_lightning.run.folders import LOCK
from dua_lightning.store.store import Store
from dua_lightning.store.store import read as read_entry
from dua_lightning.store.tensorfile import Tensors
from tests.helpers.cli import TINY, Done, refused, run
from tests.helpers.process import spawn, start
from tests.helpers.tiny import same
from tests.helpers.wandb_file import records as wandb_records

Run = Callable[..., Done]

ROWS = {
    "MAS-RACL": ("method=racl", "importance=mas"),
    "FIM-RACL": ("method=racl", "importance=fim"),
    "MAS-IMM": ("method=imm", "importance=mas"),
    "FIM-IMM": ("method=imm", "importance=fim"),
    "mean-IMM": ("method=mean_imm",),
    "Task Experts": ("method=task_experts",),
    "EWC": ("method=ewc",),
    "MAS": ("method=mas",),
    "LwF": ("method=lwf",),
    "Joint": ("method=joint",),
}


TASKS = ["0-1", "2-3"]
WRITTEN = ("records.csv", "costs.csv", "summary.json", "figures/accuracy.png", "figures/matrices.png")


@pytest.fixture
def dua(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """The command line on tiny digits, writing to `tmp_path / "out"` unless told otherwise."""

    def call(*arguments: str) -> Done:
        folder = f"paths.output_dir={tmp_path / 'out'}"
        given = [a for a in arguments if a.startswith("paths.output_dir=")]
        return run(*arguments, *TINY, *([] if given else [folder]), capfd=capfd, monkeypatch=monkeypatch)

    return call


def store() -> Path:
    """The folder in which runs of this test keep what they make, unless told otherwise."""
    return Path(os.environ["DUA_STORE_DIR"])


def experts(root: Path) -> dict[str, Tensors]:
    return {entry.key: read_entry(entry.path)[0] for entry in Store(root).entries() if entry.kind == "experts"}


@dataclass(frozen=True)
class Whole:
    """The run of all rows: where it wrote, where it stored what it made, and how it ended."""

    folder: Path
    store: Path
    done: Done


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Made once, in a process of its own, with a store of its own that no test writes to."""
    folder = tmp_path_factory.mktemp("whole")
    places = (f"paths.output_dir={folder / 'out'}", f"paths.store_dir={folder / 'store'}")
    done = spawn(*TINY, "method=all", "logger=none", "threads=1", *places, cwd=folder)
    assert done.status == 0, done.err
    return Whole(folder / "out", folder / "store", done)


@pytest.mark.parametrize("label", ROWS)
def test_each_row_of_the_table_runs(whole: Whole, label: str) -> None:
    assert label in whole.done.out
    frame = read(whole.folder / "records.csv")
    assert list(frame.columns) == COLUMNS
    assert list(dict.fromkeys(frame["label"])) == list(ROWS)
    frame = frame[frame["label"] == label]
    assert set(frame["user"]) == {"mnist", "mnist_m", "uci"}
    assert frame["accuracy"].between(0, 100).all()
    # Joint has a model only after the last task; the others one after each, seen on the tasks so far.
    pairs = set(zip(frame["after"], frame["on"], strict=True))
    assert pairs == ({(2, 1), (2, 2)} if label == "Joint" else {(1, 1), (2, 1), (2, 2)})
    row = json.loads((whole.folder / "summary.json").read_text())[label]
    R = [R for _, R in matrices(frame)]
    assert row["average_accuracy"] == pytest.approx(average_accuracy(R).mean())
    assert row["forgetting"] is None if label == "Joint" else row["forgetting"] == pytest.approx(forgetting(R).mean())


def test_another_process_gives_the_same_bits_in_one_folder_whose_name_has_the_time(
    whole: Whole, tmp_path: Path
) -> None:
    done = spawn(*TINY, "method=all", "logger=none", "threads=1", cwd=tmp_path)
    assert done.status == 0, done.err
    # Composing ten rows lets seconds pass.
    (folder,) = (tmp_path / "outputs").glob("*/*")
    assert (folder / "records.csv").read_bytes() == (whole.folder / "records.csv").read_bytes()
    a, b = experts(whole.store), experts(store())
    # 2 experts of L2-transfer, then one each of EWC, MAS and LwF after the shared first task, and Joint.
    assert len(a) == 6
    assert a.keys() == b.keys()
    assert all(same(a[key], b[key]) for key in a)


@pytest.mark.parametrize("label", ["FIM-RACL", "Task Experts", "LwF", "Joint"])
def test_a_row_alone_gives_what_it_gives_among_all(dua: Run, whole: Whole, tmp_path: Path, label: str) -> None:
    # One row of each kind of training, and of each thing that a user does.
    assert dua(*ROWS[label], "logger=none", "threads=1").status == 0
    together, alone = read(whole.folder / "records.csv"), read(tmp_path / "out" / "records.csv")
    assert set(alone["label"]) == {label}
    pd.testing.assert_frame_equal(together[together["label"] == label].reset_index(drop=True), alone)


def test_a_verb_on_the_command_line_keeps_the_rows_that_agree_with_it(dua: Run, whole: Whole, tmp_path: Path) -> None:
    assert dua("method=all", "logger=none", "importance=fim", f"paths.store_dir={whole.store}").status == 0
    assert set(read(tmp_path / "out" / "records.csv")["label"]) == set(ROWS) - {"MAS-RACL", "MAS-IMM"}


def test_a_verb_on_the_command_line_is_the_choice_of_rows_that_do_not_name_it(dua: Run, tmp_path: Path) -> None:
    assert dua("method=all", "logger=none", "importance=mas", "adapt=none", "merge=mean").status == 0
    labels = list(dict.fromkeys(read(tmp_path / "out" / "records.csv")["label"]))
    ours = ["RACL, mean merge", "IMM, mean merge", "mean-IMM", "EWC, mean merge", "MAS, mean merge", "LwF, mean merge"]
    assert labels == [*ours, "Joint, mean merge"]


def test_a_list_of_seeds_is_one_run_with_a_spread(dua: Run, tmp_path: Path) -> None:
    assert dua("seed=[1,2]", "logger=none").status == 0
    (row,) = json.loads((tmp_path / "out" / "summary.json").read_text()).values()
    assert set(row["seeds"]) == {"1", "2"}
    assert row["average_accuracy"] == pytest.approx(sum(row["seeds"].values()) / 2)
    assert row["average_accuracy_std"] == pytest.approx(abs(row["seeds"]["1"] - row["seeds"]["2"]) / 2**0.5)


def test_a_sweep_shares_experts_and_ends_in_one_table(dua: Run, tmp_path: Path) -> None:
    done = dua("-m", "method=racl,imm", "seed=1,2", "logger=csv")
    assert done.status == 0, done.err
    frame = read(tmp_path / "out" / "records.csv")
    assert set(frame["label"]) == {"MAS-RACL", "MAS-IMM"}
    assert set(frame["seed"]) == {1, 2}
    assert len(experts(store())) == 4
    # Each seed's experts were trained by the first job that needed them.
    trained = pd.concat([pd.read_csv(path) for path in (tmp_path / "out").glob("*/trainings.csv")])
    assert sorted(zip(trained["seed"], trained["task"], strict=True)) == [(s, t) for s in (1, 2) for t in TASKS]
    assert "sweep of 4 jobs" in done.out
    assert "MAS-RACL minus MAS-IMM, paired" in done.out
    command = json.loads((tmp_path / "out" / "3" / "environment.json").read_text())["command"]
    assert {"method=imm", "seed=2"} <= set(command)


def test_a_run_leaves_what_is_needed_to_repeat_it(dua: Run, tmp_path: Path) -> None:
    assert dua("seed=3", "method=lwf").status == 0
    out = tmp_path / "out"
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["seed"] == 3
    assert config["regularise"]["temperature"] == 2
    assert config["paths"]["output_dir"] == str(out)
    assert "${" not in (out / "config.yaml").read_text()
    environment = json.loads((out / "environment.json").read_text())
    assert "method=lwf" in environment["command"]
    assert environment["packages"]["torch"]
    trained = table(out / "trainings.csv", TrainingRecord)
    assert list(trained["task"]) == TASKS
    assert trained["val_accuracy"].between(0, 100).all()
    assert set(trained["epochs"]) == {1}
    for task in TASKS:
        (curve,) = out.rglob(f"csv/version_0/LwF/{task}/metrics.csv")
        assert {"epoch", "train_loss", "val_accuracy"} <= set(pd.read_csv(curve))
    for name in ("domains", "accuracy", "matrices"):
        assert (out / "figures" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    hidden = [p.name for p in out.rglob(".*") if p.is_file() and p.parent.name != ".hydra"]
    assert hidden == [LOCK], "temporary files are left"


def test_nothing_is_written_outside_the_runs_folder(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    done = spawn(*TINY, f"paths.output_dir={tmp_path / 'out'}", cwd=tmp_path / "elsewhere")
    assert done.status == 0, done.err
    assert not list((tmp_path / "elsewhere").iterdir())


def test_wandb_keeps_curves_records_and_figures_of_merit(dua: Run, tmp_path: Path) -> None:
    assert dua("logger=wandb", "method=racl").status == 0
    (path,) = (tmp_path / "out" / "wandb").glob("offline-run-*/run-*.wandb")
    found = wandb_records(path)
    (started,) = [r.run for r in found if r.WhichOneof("record_type") == "run"]
    assert (started.run_group, started.project, started.job_type) == ("digits", "dua_lightning", "MAS-RACL")
    assert {"MAS-RACL", "digits", "mlp", "paper", "none"} == set(started.tags)
    configs = [started.config, *(r.config for r in found if r.WhichOneof("record_type") == "config")]
    values = {item.key: json.loads(item.value_json) for config in configs for item in config.update}
    names = [values[group]["name"] for group in ("method", "importance", "adapt")]
    assert (names, values["seed"]) == (["racl", "mas", "none"], 1), "runs are filtered and sorted by these"
    histories = [r.history for r in found if r.WhichOneof("record_type") == "history"]
    logged = {"/".join(item.nested_key) or item.key for history in histories for item in history.item}
    assert {"L2-transfer/0-1/val_accuracy", "L2-transfer/2-3/train_loss"} <= logged
    assert {"tasks_learnt", "accuracy_so_far", "accuracy_on/0-1", "accuracy_on/2-3"} <= logged
    assert any(name.startswith("records/") for name in logged)
    summary = {i.key: i.value_json for r in found if r.WhichOneof("record_type") == "summary" for i in r.summary.update}
    (row,) = json.loads((tmp_path / "out" / "summary.json").read_text()).values()
    assert float(summary["MAS-RACL/average_accuracy"]) == pytest.approx(row["average_accuracy"])
    assert float(summary["MAS-RACL/forgetting"]) == pytest.approx(row["forgetting"])
    assert float(summary["average_accuracy"]) == pytest.approx(row["average_accuracy"])
    media = path.parent / "files" / "media"
    lines = {}
    for name in ("records", "rows", "users", "accuracy_matrix"):
        (table,) = (media / "table").glob(f"{name}_*.table.json")
        lines[name] = len(json.loads(table.read_text())["data"])
    known = len(read(tmp_path / "out" / "records.csv"))
    assert lines == {"records": known, "rows": 1, "users": 3, "accuracy_matrix": 3}
    pictures = {path.name.partition("_")[0] for path in (media / "images").rglob("*.png")}
    assert pictures == {"domains", "accuracy", "matrices"}


def test_a_run_says_what_users_sent_through_a_release(dua: Run, tmp_path: Path) -> None:
    done = dua("method=racl", "release=levels", "release.level=layer")
    assert done.status == 0, done.err
    sent = pd.read_csv(tmp_path / "out/releases.csv")
    assert set(sent["label"]) == {"MAS-RACL, layer priors"}
    assert set(sent["task"]) == set(TASKS)
    assert (sent["sent"] < sent["plain"]).all()
    assert sent["epsilon"].isna().all()
    assert "priors that users sent through a release" in done.out
    assert "releases.csv" in done.out
    assert dua("method=racl").status == 0
    assert not (tmp_path / "out/releases.csv").exists()
    refusal = dua("method=racl", "release=least_images")
    assert refused(refusal)
    assert "user mnist: a prior of" in refusal.err
    assert "is not sent, since it can show them" in refusal.err


def test_help_shows_groups_choices_and_commands(dua: Run) -> None:
    done = dua("--help")
    assert done.status == 0
    shown = (
        "data: catprior, digits, numbers, own_users",
        "importance: averaged, fim, gram, mas, noise, permuted, uniform",
        "merge: each, last, magmax, mean, mode, regmean, task_arithmetic, ties",
        "regularise: ewc, l2_transfer, lwf, mas, none",
        "release: bf16, chain, gaussian, int8, least_images, levels, none, top_k",
        "statistics: last, mean, server, server_calibrated, task",
        "logger: csv, mlflow, none, tensorboard, wandb",
        "experiment: catprior, digits",
    )
    for text in shown:
        assert text in done.out
    assert max(map(len, done.out.splitlines())) <= 80
    assert done.out.count("\n  dua ") == 18


def test_the_version_names_what_it_runs_on(dua: Run) -> None:
    done = dua("--version")
    python = ".".join(map(str, sys.version_info[:3]))
    assert done.status == 0
    assert done.out.startswith(f"dua_lightning {__version__} (Python {python}, torch {version('torch')}, lightning ")
    assert done.out.count("\n") == 1


BAD = {
    "an unknown choice": (("method=foo",), ("method=foo", "racl")),
    "an unknown experiment": (("+experiment=foo",), ("experiment=foo", "numbers")),
    "a misspelt key": (("trainer.max_epoch=3",), ("trainer.max_epoch ", "did you mean trainer.max_epochs?")),
    "a misspelt key that is added": (("+trainer.max_epoch=3",), ("trainer.max_epoch ", "trainer.max_epochs?")),
    "a misspelt group": (("modle=mlp",), ("modle is not a setting; did you mean model?",)),
    "a misspelt group that is added": (("+modle=mlp",), ("modle is not a setting; did you mean model?",)),
    "a misspelt setting by force": (("++sed=3",), ("sed is not a setting; did you mean seed?",)),
    "a misspelt group of a group": (("+data/image=photos",), ("data/image is not a setting",)),
    "a setting of another group": (("+max_epochs=3",), ("did you mean trainer.max_epochs?",)),
    "a setting of a choice that has none": (("+adapt.lrr=1",), ("adapt.lrr is not a setting", "Unchanged")),
    "a setting of a misspelt name": (("adapt=finetune", "+adapt.epoch=1"), ("did you mean adapt.epochs?",)),
    "a setting of nothing": (("+scheduler.gamma=0.5",), ("scheduler.gamma has no effect",)),
    "a setting of an importance that is not measured": (("method=mean_imm", "+importance.x=1"), ("importance.x",)),
    "a folder of nothing": (("+paths.cache_dir=x",), ("paths.cache_dir is not a setting",)),
    "a suggestion to nobody": (("+suggested.widht=2",), ("suggested.widht is not a setting",)),
    "a callback that is a number": (("+callbacks.stop_after=3",), ("callbacks.stop_after=3", "_target_")),
    "a callback that is nothing": (("+callbacks.x={}",), ("callbacks.x={}", "_target_")),
    "a measure that does not exist": (("objective=accuracy",), ("objective=accuracy", "average_accuracy")),
    "an argument that conf does not name": (("trainer.barebones=false",), ("give +trainer.barebones=VALUE",)),
    "an experiment that is not added": (("experiment=digits",), ("+experiment=",)),
    "a group that the data do not have": (("data/images=photos",), ("data/images is no choice here",)),
    "a word": (("digits",), ("digits cannot be read", "NAME=VALUE")),
    "a ~ without quotes": (("paths.store_dir=~/out",), ("""'paths.store_dir="~/out"'""",)),
    "a line break without quotes": (("name=a=\nb",), (r"'name=a=\nb'",)),
    "an = without quotes": (("name=a=b",), ("""'name="a=b"'""",)),
    "a wrong type": (("trainer.max_epochs=abc",), ("trainer.max_epochs=abc", "integer")),
    "a fraction of an epoch": (("trainer.max_epochs=1.5",), ("trainer.max_epochs=1.5",)),
    "a negative number": (("trainer.max_epochs=-3",), ("trainer.*", "max_epochs", "-3")),
    "a negative rate": (("optimizer.lr=-1",), ("optimizer.*", "learning rate", "-1")),
    "processes that run the whole program": (("trainer.devices=2",), ("trainer.devices=2", "ddp_spawn")),
    "a seed that is a word": (("seed=x",), ("seed=x",)),
    "seeds that are words": (("seed=[1,x]",), ("seed",)),
    "no seed": (("seed=[]",), ("seed=[]", "at least 1")),
    "the same seed twice": (("seed=[1,1]",), ("seed=[1, 1]",)),
    "no thread": (("threads=0",), ("threads=0", "at least 1")),
    "threads that are a word": (("threads=all",), ("threads=all", "integer")),
    "a sweep without -m": (("method=racl,imm",), ("method=racl,imm", "--multirun")),
    "batch norm where there is none": (("adapt=adabn",), ("adapt=adabn", "BatchNorm")),
    "labels where there are none, psi": (("importance=fim", "data.users_labelled=false"), ("importance=mas",)),
    "labels where there are none, phi": (("adapt=finetune", "data.users_labelled=false"), ("adapt=none",)),
    "more images than there are": (("data.server_per_class=600",), ("600", "500")),
    "an empty network": (("model.width=0",), ("width=0",)),
    "a tag that W&B does not take": (("logger=wandb", "logger.tags=['']"), ("tags=['']", "1 to 64")),
    "no such setting of a logger": (("+logger.flush=1",), ("CSVLogger", "flush")),
    "a logger's setting of another type": (("+logger.flush_logs_every_n_steps=x",), ("every_n_steps=x",)),
    "a logger that does not exist": (("logger._target_=lightning.Nothing",), ("logger._target_=lightning.Nothing",)),
    "a label rule that does not exist": (("importance=fim", "importance.labels=x"), ("sampled",)),
    "rows that exclude each other": (("method=table4", "adapt=adabn_released"), ("adapt=adabn_released",)),
    "a merge that nobody measures priors for": (("method=ewc", "merge=mode"), ("merge=mode", "prior=user")),
    "a row that names no verb": (("method=all", "method.rows=[{method: racl, model: mlp}]"), ("model=mlp", "adapt")),
    "a data set that is not there": (
        ("data=numbers", "data.download=false"),
        ("data: MNIST", "benchmark digits"),
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_status_2(
    case: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    arguments, words = BAD[case]
    places = (f"paths.output_dir={tmp_path / 'out'}", f"paths.data_dir={tmp_path / 'data'}")
    done = run(*arguments, *places, capfd=capfd, monkeypatch=monkeypatch)
    assert done.status == 2
    (line,) = done.err.splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line
    assert not store().exists(), "something was trained first"


def test_debug_shows_the_traceback(dua: Run) -> None:
    with pytest.raises(ValueError, match="BatchNorm"):
        dua("adapt=adabn", "debug=true")


def test_unlabelled_users_are_served_by_mas(dua: Run) -> None:
    assert dua("data.users_labelled=false", "method=racl", "importance=mas").status == 0
    assert dua("data.users_labelled=false", "importance=fim", "importance.labels=sampled").status == 0


def test_a_second_run_reuses_everything_and_gives_the_same(whole: Whole, tmp_path: Path) -> None:
    assert "reused" not in whole.done.out
    # In a process of its own, which paints the figures.
    places = (f"paths.store_dir={whole.store}", f"paths.output_dir={tmp_path / 'out'}")
    done = spawn(*TINY, "method=all", "logger=none", *places, cwd=tmp_path)
    assert done.status == 0, done.err
    assert "seed 1: reused 6 experts and 30 of 30 results" in done.out.splitlines()
    assert "trained in" not in done.out
    for name in WRITTEN:
        assert (tmp_path / "out" / name).read_bytes() == (whole.folder / name).read_bytes()


def test_what_is_missing_alone_is_made(dua: Run, whole: Whole, tmp_path: Path) -> None:
    shutil.copytree(whole.store, store())
    lost = [*(store() / "results").glob("*.safetensors")][:7]
    lost += (store() / "experts").glob("*.safetensors")
    for path in lost:
        path.unlink()
    done = dua("method=all", "logger=none", "threads=1")
    assert "seed 1: reused 0 experts and 23 of 30 results" in done.out.splitlines()
    assert "trained in" in done.out
    assert (tmp_path / "out" / "records.csv").read_bytes() == (whole.folder / "records.csv").read_bytes()


def test_a_row_adds_to_the_rows_that_there_are(dua: Run) -> None:
    assert dua("method=racl").status == 0
    assert "seed 1: reused 2 experts and 0 of 3 results" in dua("method=imm").out.splitlines()
    assert "seed 1: reused 1 experts and 0 of 3 results" in dua("method=lwf").out.splitlines()


def test_priors_are_kept_where_asked_and_change_nothing(dua: Run, whole: Whole, tmp_path: Path) -> None:
    assert not (whole.store / "priors").exists()
    together = read(whole.folder / "records.csv")
    # One of each of three users, or of the server for all of them; the second time they are read.
    for method, priors in (("racl", 3), ("imm", 4), ("imm", 4)):
        assert dua(f"method={method}", "logger=none", "threads=1", "store.priors=true").status == 0
        alone = read(tmp_path / "out" / "records.csv")
        of_method = together[together["label"] == f"MAS-{method.upper()}"].reset_index(drop=True)
        pd.testing.assert_frame_equal(of_method, alone)
        assert len([*(store() / "priors").glob("*.safetensors")]) == priors
        shutil.rmtree(store() / "results")


def test_two_runs_at_once_train_each_expert_once(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "b")]
    runs = [start(*TINY, "method=lwf", f"paths.output_dir={folder}", cwd=tmp_path) for folder in folders]
    assert [run.wait().status for run in runs] == [0, 0]
    trained = pd.concat([pd.read_csv(path) for folder in folders for path in folder.glob("trainings.csv")])
    assert sorted(trained["task"]) == TASKS
    assert len(experts(store())) == 2
    (a, b) = ((folder / "records.csv").read_bytes() for folder in folders)
    assert a == b
