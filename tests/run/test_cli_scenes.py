"""The scene benchmarks from the command line, on few photographs and a very narrow network."""

import json
import os
import re
import shutil
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dua_lightning.data.corruptions import NAMES
from dua_lightning.report import facts
from dua_lightning.report.records import CostRecord, read, table
from tests.helpers.cli import Done, run
from tests.helpers.process import spawn

SMALL = (
    "model=vgg11_bn",
    "model.width=0.02",
    "trainer.max_epochs=1",
    "logger=none",
    "engine=serial",
)
PHOTOS = ("data/images=photos", "data.images.server_per_category=10")


@pytest.fixture
def dua(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def call(*arguments: str) -> Done:
        places = (f"paths.output_dir={tmp_path / 'out'}", f"paths.data_dir={tmp_path / 'data'}")
        return run(*arguments, *SMALL, *places, capfd=capfd, monkeypatch=monkeypatch)

    return call


@pytest.mark.slow
def test_table_4_on_photographs_has_every_row_user_and_cost(dua, tmp_path: Path) -> None:
    done = dua("+experiment=catprior", *PHOTOS, "data.images_per_preference=4", "method=table4")
    assert done.status == 0, done.err
    frame = read(tmp_path / "out" / "records.csv")
    assert len(frame["label"].unique()) == 25
    assert {"MAS-RACL", "MAS-RACL + AdaBN", "MAS-RACL + AdaBN-S", "Task Experts"} <= set(frame["label"])
    assert frame["user"].nunique() == 5
    costs = pd.read_csv(tmp_path / "out" / "costs.csv")
    by_label = costs.groupby("label").first()
    assert "cost of adapting one task" in done.out
    assert by_label.loc["Joint + AdaBN", "trainable"] == 0
    ways = {"Joint + AdaBN": "exact", "Joint + AdaBN-S": "exact", "Task Experts": "none"}
    assert {label: by_label.loc[label, "statistics"] for label in ways} == ways
    assert 0 < by_label.loc["Joint + AdaBN-S", "trainable"] < by_label.loc["Task Experts", "trainable"]
    assert (costs["seconds"] > 0).all()
    assert 0 < by_label.loc["LwF + AdaBN", "bytes"] < by_label.loc["LwF + AdaBN-S", "bytes"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "choice",
    [
        ("adapt=adabn",),
        ("adapt=adabn_released", "method=joint"),
        ("adapt=adabn", "fidelity=released", "importance=fim"),
        ("statistics=server", "method=imm"),
        ("statistics=mean", "adapt=finetune"),
        ("adapt=adabn", "data.users_labelled=false", "data.iterations=2"),
    ],
    ids=" ".join,
)
def test_catprior_on_photographs_with(choice: tuple[str, ...], dua, tmp_path: Path) -> None:
    done = dua("+experiment=catprior", *PHOTOS, "data.images_per_preference=4", *choice)
    assert done.status == 0, done.err
    frame = read(tmp_path / "out" / "records.csv")
    assert frame["user"].nunique() == 5
    assert frame["iteration"].nunique() == (2 if "data.iterations=2" in choice else 1)
    assert set(frame["fidelity"]) == {"released" if "fidelity=released" in choice else "paper"}


@pytest.mark.slow
def test_a_run_ends_and_its_report_begins_with_the_verdict(
    dua: Callable[..., Done], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    few = ("data.images_per_preference=4", "adapt_after=last_task", "threads=1")
    done = dua("data=catprior", *PHOTOS, *few, "method=verdict")
    assert done.status == 0, done.err
    out = tmp_path / "out"
    frame = read(out / "records.csv").drop_duplicates("label").set_index("label")
    assert frame.loc["MAS-IMM, server statistics", ["prior", "statistics", "uses"]].tolist() == [
        *("server", "server", "nothing")
    ]
    assert frame.loc["Joint", ["prior", "statistics", "uses"]].tolist() == ["none", "none", "nothing"]
    assert frame.loc["MAS-IMM + AdaBN of 5 images", "uses"] == "images"
    told = json.loads((out / "summary.json").read_text())["verdict"]
    for question, answer in told.items():
        assert f"\n{question}\n" in done.out
        assert not answer.startswith("Not asked")
    places = [done.out.index(text) for text in ("percent, one seed", "Does personalization help", "summary.json\n")]
    assert places == sorted(places)
    known = facts.read(out)
    assert known is not None
    assert (known.users, known.batch_norm) == (5, True)
    assert all(task.name in (out / "benchmark.json").read_text() for task in known.tasks)
    assert run("report", str(out), capfd=capfd, monkeypatch=monkeypatch).status == 0
    text = (out / "report" / "report.md").read_text()
    assert text.index("## The verdict") < text.index("## Accuracy and forgetting")
    assert "figures/few_images.svg" in text
    assert f"| {known.tasks[0].name} |" in text


@pytest.mark.slow
def test_the_experts_of_catprior_serve_transprior_too(dua, tmp_path: Path) -> None:
    assert dua("+experiment=catprior", *PHOTOS, "data.images_per_preference=4").status == 0
    done = dua("+experiment=transprior", *PHOTOS, "data.extra_per_task=8", "data.severity=1")
    assert done.status == 0, done.err
    assert "trained in" not in done.out
    assert tuple(dict.fromkeys(read(tmp_path / "out" / "records.csv")["user"])) == NAMES


OWN = ("data=own_users", "data.images.size=36", "data.input_size=32", "model.pooled=1", "model.weights=none")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A server with two tasks of two categories, and a user, ann, with labels."""
    for task, category in (("a", "x"), ("a", "y"), ("b", "z"), ("b", "w")):
        fill(tmp_path / "own/server" / task / category, 5)
        fill(tmp_path / "own/users/ann" / task / category, 4)
    return tmp_path / "own"


def fill(folder: Path, count: int) -> None:
    stream = np.random.default_rng(zlib.crc32(str(folder).encode()))
    folder.mkdir(parents=True)
    for i in range(count):
        Image.fromarray(stream.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(folder / f"{i}.png")


def test_own_folders_with_own_users(dua, own: Path, tmp_path: Path) -> None:
    for category in ("a/x", "a/y", "b/z", "b/w"):
        fill(own / "users/bob" / category, 4)
    done = dua(*OWN, f"data.images.root={own}", "adapt=adabn", "data.iterations=1")
    assert done.status == 0, done.err
    assert set(read(tmp_path / "out" / "records.csv")["user"]) == {"ann", "bob"}


ROWS = "method.rows=[{method: racl, adapt: adabn}, {method: racl, adapt: adabn_s}]"


def test_users_without_labels_and_tasks_are_personalised_and_not_scored(dua, own: Path, tmp_path: Path) -> None:
    fill(own / "users/bob/a", 4)
    fill(own / "users/bob/b/z", 4)
    fill(own / "users/carl", 6)
    fill(own / "users/dora/a", 4)
    (own / "users/ann/a/x/notes.txt").write_text("no picture")
    arguments = (*OWN, f"data.images.root={own}", "data.iterations=2", "method=all", ROWS)
    done = dua(*arguments)
    assert done.status == 0, done.err
    assert "user bob has no labels of a: personalised, not scored" in done.out
    assert "user carl has no labels: personalised, not scored" in done.out
    assert "users bob, carl have not all labels, which MAS-RACL + AdaBN-S needs: left out there" in done.out
    assert "user dora has 0 pictures of task b that can be read, and is left out" in done.err
    assert "1 of 55 pictures" in done.err
    assert "users/ann/a/x/notes.txt" in done.err
    (line,) = (line for line in done.out.splitlines() if "no tasks given" in line)
    counts = re.fullmatch(r"seed 1: user carl: no tasks given; by the experts' confidence (\d) a, (\d) b", line)
    assert counts is not None
    assert sum(map(int, counts.groups())) == 6
    assert set(read(tmp_path / "out" / "records.csv")["user"]) == {"ann"}
    adapted = table(tmp_path / "out" / "costs.csv", CostRecord).groupby("user", observed=True)["label"].unique()
    both = {"MAS-RACL + AdaBN", "MAS-RACL + AdaBN-S"}
    assert {user: set(labels) for user, labels in adapted.items()} == {
        "ann": both,
        **{user: {"MAS-RACL + AdaBN"} for user in ("bob", "carl")},
    }
    again = dua(*arguments)
    assert "seed 1: reused 2 experts and 8 of 8 results" in again.out
    assert line in again.out.splitlines()


def test_a_run_that_scores_nobody_ends_well(dua, own: Path, tmp_path: Path) -> None:
    shutil.rmtree(own / "users/ann")
    fill(own / "users/carl", 6)
    done = dua(*OWN, f"data.images.root={own}", "data.iterations=1", "adapt=adabn")
    assert done.status == 0, done.err
    assert "none was scored" in done.out
    assert not (tmp_path / "out" / "records.csv").exists()
    refused = dua(*OWN, f"data.images.root={own}", "data.iterations=1", "adapt=finetune")
    assert refused.status == 2
    assert "adapt=finetune trains on users' labels, and no user has them all" in refused.err
    sweep = dua("-m", *OWN, f"data.images.root={own}", "data.iterations=1", "adapt=adabn,none")
    assert sweep.status == 0, sweep.err


BAD = {
    "more than a category has": (
        ("+experiment=catprior", *PHOTOS, "data.images_per_preference=250"),
        ("250", "category"),
    ),
    "more than a task has": (("+experiment=transprior", *PHOTOS, "data.extra_per_task=9999"), ("9999", "task")),
    "published tastes for photographs": (
        ("+experiment=catprior", *PHOTOS, "data.preferences=published"),
        ("data: ", "preferences=drawn"),
    ),
    "a severity of 6": (("+experiment=transprior", *PHOTOS, "data.severity=6", "data.extra_per_task=8"), ("6",)),
    "a network that needs larger pictures": (("+experiment=catprior", *PHOTOS, "model=alexnet"), ("alexnet", "63")),
    "no network for the archive": (
        ("+experiment=catprior", "data.images.download=false"),
        ("TrainImages.txt", "download=true"),
    ),
    "a folder that is not there": (
        ("+experiment=transprior", "data/images=folder", "data.images.root=absent"),
        ("absent",),
    ),
    "statistics that do not exist": (
        ("statistics=first",),
        ("statistics=first", "last, mean, server, server_calibrated, task"),
    ),
    "a fidelity that does not exist": (("fidelity=exact",), ("fidelity=exact", "paper, released")),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_status_2(case: str, dua, tmp_path: Path) -> None:
    arguments, words = BAD[case]
    done = dua(*arguments) if "model=alexnet" not in arguments else dua_without_model(dua, arguments)
    assert done.status == 2
    (line,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
    for word in words:
        assert word in line
    assert not Path(os.environ["DUA_STORE_DIR"]).exists()


def dua_without_model(dua, arguments: tuple[str, ...]) -> Done:
    """`SMALL` names a model already; Hydra takes each group once."""
    return dua(*(a for a in arguments if a != "model=alexnet"), "model._target_=dua_lightning.nets.alexnet")


@pytest.mark.slow
def test_the_cards_command_on_photographs_takes_less_than_four_minutes(tmp_path: Path) -> None:
    began = time.monotonic()
    card = ("+experiment=transprior", "model=vgg11_bn", "adapt=adabn_s", "data/images=photos")
    done = spawn(*card, f"paths.output_dir={tmp_path / 'out'}", cwd=tmp_path)
    assert done.status == 0, done.err
    assert time.monotonic() - began < 240
