"""`dua export` and `dua predict`: folders of users, and classes of pictures."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dua_lightning import load
from dua_lightning.commands import export
from dua_lightning.personal import files, formats
from tests.helpers.cli import TINY, Done, refused, run
from tests.personal import runs

Dua = Callable[..., Done]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose network has batch normalisation."""
    folder = tmp_path_factory.mktemp("out")
    runs.run(folder, "method=mean_imm", *runs.OWN)
    return folder


@pytest.fixture
def dua(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Dua:
    monkeypatch.setenv("COLUMNS", "80")
    return lambda *arguments: run(*map(str, arguments), capfd=capfd, monkeypatch=monkeypatch)


@pytest.fixture
def ann(folder: Path, dua: Dua) -> Path:
    assert dua("export", folder / "run", "--user", "ann", "--formats", "safetensors").status == 0
    return folder / "run/models/ann"


def test_every_user_has_a_folder_of_the_formats_that_can_be_written(
    folder: Path, dua: Dua, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "NEEDED", dict.fromkeys(formats.NEEDED, ("package_that_is_not_there",)))
    done = dua("export", folder / "run", "--out", tmp_path)
    assert done.status == 0
    for kind, extra in (("onnx", "export"), ("pte", "executorch")):
        assert f"no {kind} is written: pip install 'dua_lightning[{extra}]'" in done.err
    for line, user in zip(done.out.splitlines(), ("ann", "bob"), strict=True):
        assert line.startswith(f"  {tmp_path / user}  ")
        assert line.endswith("B  mean-IMM, seed 1, draw 1")
        names = sorted(path.name for path in (tmp_path / user).iterdir())
        assert names == ["garden.pt2", "kitchen.pt2", "model.json", "model.safetensors"]


def test_the_formats_of_the_command_are_those_of_the_library(folder: Path, dua: Dua) -> None:
    assert export.KINDS == files.FORMATS
    done = dua("export", folder / "run", "--formats", "pt2,tflite")
    assert refused(done)
    assert "tflite is none of safetensors, pt2, onnx, pte" in done.err


def test_a_user_that_there_is_not_is_refused(folder: Path, dua: Dua) -> None:
    done = dua("export", folder / "run", "--user", "eve")
    assert refused(done)
    assert "the run has no user eve; it has ann, bob" in done.err


def test_predictions_are_those_of_the_library(ann: Path, folder: Path, dua: Dua) -> None:
    paths = sorted((folder / "pictures/users/bob").rglob("*.jpg"))
    done = dua("predict", ann, *paths, "--json", "--top", "1", "--code", "tests")
    assert done.status == 0
    found = json.loads(done.out)
    assert [one["picture"] for one in found] == [str(path) for path in paths]
    model = load(ann, code=("tests",))
    for task in ("garden", "kitchen"):
        likely, columns = model.probabilities(task, model.preprocessing(paths)).max(1)
        best = [one["tasks"][task] for one in found]
        assert all(len(classes) == 1 for classes in best)
        assert [classes[0]["class"] for classes in best] == [model.classes(task)[k] for k in columns]
        torch.testing.assert_close(torch.tensor([classes[0]["probability"] for classes in best]), likely)


def test_people_see_a_line_for_each_task(ann: Path, folder: Path, dua: Dua) -> None:
    path = folder / "pictures/users/bob/garden/tulip/0.jpg"
    done = dua("predict", ann, path, "--code", "tests")
    first, garden, kitchen = done.out.splitlines()
    assert first == str(path)
    assert garden.startswith("  garden: ")
    assert kitchen.startswith("  kitchen: ")
    shares = [float(part.split()[-2]) for part in garden.split(", ")]
    assert sum(shares) == pytest.approx(100, abs=0.2)
    assert shares == sorted(shares, reverse=True)


def test_a_picture_that_cannot_be_read_is_named_after_the_others(ann: Path, folder: Path, dua: Dua) -> None:
    bad, good = folder / "bad.jpg", folder / "pictures/users/bob/garden/tulip/0.jpg"
    bad.write_text("no picture")
    done = dua("predict", ann, bad, good, "--task", "garden", "--code", "tests")
    assert done.status == 2
    assert [line[:2] == "  " for line in done.out.splitlines()] == [False, True]
    assert f"error: {bad} is not a picture that can be used" in done.err
    found = json.loads(dua("predict", ann, bad, good, "--json", "--code", "tests").out)
    assert [sorted(one) for one in found] == [["error", "picture"], ["picture", "tasks"]]


def test_adapting_first_gives_what_the_adapted_model_gives(ann: Path, folder: Path, dua: Dua) -> None:
    own, picture = folder / "pictures/users/ann", folder / "pictures/users/bob/garden/tulip/0.jpg"
    done = dua("predict", ann, picture, "--adapt", own, "--json", "--code", "tests")
    assert done.status == 0
    assert "task garden is adapted by AdaBN on 6 pictures" in done.err
    model = load(ann, code=("tests",))
    x = model.preprocessing(sorted((own / "garden").rglob("*.jpg")))
    expected = model.adapted("garden", [(x, None)]).probabilities("garden", model.preprocessing([picture]))
    plain = model.probabilities("garden", model.preprocessing([picture]))
    (found,) = json.loads(done.out)
    best = torch.tensor([one["probability"] for one in found["tasks"]["garden"]])
    torch.testing.assert_close(best, expected[0].sort(descending=True).values)
    assert not torch.allclose(best, plain[0].sort(descending=True).values)
    alone = dua("predict", ann, picture, "--adapt", own / "garden", "--task", "garden", "--json", "--code", "tests")
    assert json.loads(alone.out)[0]["tasks"] == {"garden": found["tasks"]["garden"]}


def test_a_folder_without_the_tasks_pictures_is_refused(ann: Path, folder: Path, dua: Dua) -> None:
    done = dua("predict", ann, folder / "bad.jpg", "--adapt", folder / "pictures", "--code", "tests")
    assert refused(done)
    assert "has no pictures of garden, kitchen; put them there as TASK/*, or name one task by --task" in done.err


def test_a_model_of_other_inputs_than_pictures_is_refused(tmp_path: Path, dua: Dua) -> None:
    assert dua(*TINY, "method=mean_imm", "logger=none", f"paths.output_dir={tmp_path / 'run'}").status == 0
    assert dua("export", tmp_path / "run", "--user", "mnist", "--formats", "safetensors").status == 0
    done = dua("predict", tmp_path / "run/models/mnist", tmp_path / "x.jpg")
    assert refused(done)
    assert "do not come from picture files" in done.err
