"""Bad input through the real command line: one clear line, status 2, and nothing changed on disk."""

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dua_lightning.report import records
from dua_lightning.report.records import CostRecord
from tests.data.scenes import picture
from tests.faults import alone
from tests.faults.readers import Payload
from tests.helpers.cli import TINY, Done, refused

OWN = (
    *("data=own_users", "data.images.root=own", "data.images.size=8", "data.input_size=8", "data.iterations=1"),
    *("trainer.max_epochs=1", "logger=none", "paths.data_dir=data"),
)
MLP = ("model=mlp", "model.width=8")


@pytest.fixture
def cwd(tmp_path: Path) -> Path:
    (tmp_path / "cwd").mkdir()
    return tmp_path / "cwd"


@pytest.fixture
def own(cwd: Path) -> Path:
    """A server and a user with two tasks of two categories."""
    for place, who in enumerate(("server", "users/ann")):
        for label, category in enumerate(("a/x", "a/y", "b/z", "b/w")):
            folder = cwd / "own" / who / category
            folder.mkdir(parents=True)
            for i in range(4):
                picture(100 * place + 10 * label + i).save(folder / f"{i}.png")
    return cwd / "own"


def dua(cwd: Path, *arguments: str) -> Done:
    given = any(argument.startswith("paths.output_dir=") for argument in arguments)
    # Options stand before everything else.
    arguments = tuple(sorted(arguments, key=lambda argument: argument != "-m"))
    return alone.run(*arguments, *([] if given else ["paths.output_dir=out"]), cwd=cwd)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


NUMBERS = {
    "no task": ("data.tasks=0",),
    "fewer than no threads": ("threads=-1",),
    "more threads than any machine has": ("threads=1000000000",),
    "a rate that is no number": ("optimizer.lr=nan",),
    "a rate that is infinite": ("optimizer.lr=inf",),
    "a rate of adaptation that is infinite": ("adapt=finetune", "adapt.lr=inf"),
    "a momentum that is no number": ("adapt=finetune", "adapt.momentum=nan"),
    "a negative momentum": ("adapt=finetune", "adapt.momentum=-0.5"),
    "a penalty that is infinite": ("regularise.strength=inf",),
    "a temperature that is infinite": ("method=lwf", "regularise.temperature=inf"),
    "no first task": ("regularise.first_task=-1",),
    "a prior that is no number": ("importance=fim", "importance.floor=nan"),
    "a prior that is infinite": ("importance=fim", "importance.floor=inf"),
    "a prior that is negative": ("importance=fim", "importance.floor=-1"),
    "no draw": ("data.iterations=0",),
    "an empty batch": ("data.batch_size=0",),
    "a network larger than the memory": ("model.width=1000000000",),
    "a seed of no number": ("seed=null",),
}
TEXTS = {
    "an empty sweep": ("-m", "seed="),
    "a node where a number belongs": ("optimizer.lr={a: 1}",),
    "a number where a node belongs": ("merge=5",),
    "a target that is not there": ("adapt._target_=dua_lightning.nothing",),
    "a target of another kind": ("adapt._target_=dua_lightning.importance.MAS",),
    "a target that is no target": ("data._target_=os.system",),
    "a training that is no name": ("trainer._target_=$",),
    "a training whose source cannot be read": ("trainer._target_=builtins.print",),
    "a text where a node belongs": ("store=",),
    "a missing node": ("~merge",),
    "a way to measure that does not exist": ("prior=nobody",),
    "data to measure on that do not exist": ("fidelity.imm_data=test", "method=imm"),
    "an interpolation of nothing": ("seed=${nothing}",),
    "a bracket that does not close": ("seed=[1",),
    "rows that are none": ("method=all", "method.rows=5"),
}


@pytest.mark.parametrize("arguments", [*NUMBERS.values(), *TEXTS.values()], ids=[*NUMBERS, *TEXTS])
def test_nonsense_is_refused_before_anything_is_trained(arguments: tuple[str, ...], cwd: Path) -> None:
    done = dua(cwd, *TINY, *arguments)
    assert refused(done), done
    assert not list(cwd.rglob("*.safetensors"))


@pytest.mark.parametrize("place", ["paths.output_dir", "paths.store_dir"])
def test_a_folder_that_cannot_be_written_to(place: str, cwd: Path) -> None:
    (cwd / "file").write_text("mine")
    done = dua(cwd, *TINY, f"{place}=file/below")
    assert refused(done), done
    assert "file" in done.err
    assert (cwd / "file").read_text() == "mine"


def test_a_cache_that_cannot_be_written(own: Path) -> None:
    (own.parent / "data").write_text("mine")
    done = dua(own.parent, *OWN, *MLP)
    assert refused(done), done
    assert "data" in done.err


def _no_task(own: Path) -> None:
    shutil.rmtree(own / "users" / "ann" / "a")


def _one_picture(own: Path) -> None:
    shutil.rmtree(own / "users" / "ann" / "a" / "x")
    for i in range(3):
        (own / "users" / "ann" / "a" / "y" / f"{i}.png").unlink()


def _unreadable(own: Path) -> None:
    (own / "users" / "ann" / "a" / "x" / "2.png").write_bytes(b"no picture")


def _cut(own: Path) -> None:
    path = own / "server" / "b" / "z" / "1.png"
    path.write_bytes(path.read_bytes()[:60])


def _a_pickle(own: Path) -> None:
    (own / "server" / "a" / "x" / "3.png").write_bytes(pickle.dumps(Payload(own.parent / "canary")))


def _floating_point(own: Path) -> None:
    Image.fromarray(np.ones((4, 4), np.float32)).save(own / "server" / "a" / "x" / "9.tif")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_no_task, ("ann has 0 pictures of task a",)),
        (_one_picture, ("ann has 1 pictures of task a", "at least 2")),
        (_unreadable, ("users/ann/a/x/2.png", "skip_unreadable=true")),
        (_cut, ("server/b/z/1.png",)),
        (_a_pickle, ("server/a/x/3.png",)),
        (_floating_point, ("9.tif", "floating-point")),
    ],
)
def test_pictures_that_cannot_be_used(change: Callable[[Path], None], words: tuple[str, ...], own: Path) -> None:
    change(own)
    before = tree(own)
    done = dua(own.parent, *OWN, *MLP, "data.images.skip_unreadable=false")
    assert refused(done), done
    assert all(word in done.err for word in words), done.err
    assert tree(own) == before
    assert not (own.parent / "canary").exists()


def test_pictures_that_cannot_be_used_are_left_out_by_default(own: Path) -> None:
    _unreadable(own)
    _a_pickle(own)
    before = tree(own)
    done = dua(own.parent, *OWN, *MLP)
    assert done.status == 0, done
    assert "2 of 32 pictures" in done.err
    for name in ("server/a/x/3.png", "users/ann/a/x/2.png"):
        assert name in done.err
    assert tree(own) == before
    assert not (own.parent / "canary").exists()


def test_an_unreadable_picture_is_skipped_on_request_and_then_listed(own: Path) -> None:
    _unreadable(own)
    _cut(own)
    done = dua(own.parent, *OWN, *MLP, "data.images.skip_unreadable=true")
    assert done.status == 0, done.err
    for text in (done.err, (own.parent / "out" / "dua.log").read_text()):
        assert "2 of 32 pictures" in text
        assert "users/ann/a/x/2.png" in text
        assert "server/b/z/1.png" in text


def test_pictures_of_every_kind_and_shape_and_users_of_one_category_are_served(own: Path) -> None:
    folder = own / "users" / "ann" / "a" / "x"
    shutil.rmtree(own / "users" / "ann" / "a" / "y")
    square = picture(7, 9, 9)
    for name, image in {
        "grey.png": square.convert("L"),
        "rgba.png": square.convert("RGBA"),
        "wide.png": Image.fromarray(np.full((9, 9), 65535, np.uint16)),
        "cmyk.jpg": square.convert("CMYK"),
        "dot.png": Image.new("RGB", (1, 1)),
        "strip.png": Image.new("RGB", (20_000, 1)),
        "column.png": Image.new("L", (1, 20_000)),
    }.items():
        image.save(folder / name)
    square.save(folder / "moving.gif", save_all=True, append_images=[picture(8, 9, 9)])
    done = dua(own.parent, *OWN, *MLP)
    assert done.status == 0, done.err


def _same_size(path: Path, number: int) -> None:
    """Another picture under the same name, of the same bytes in number, and of the same time."""
    picture(number, 8, 8).save(path, "BMP")
    os.utime(path, (1, 1))


def _fixed(root: Path, first: int) -> None:
    for place, path in enumerate(sorted(root.rglob("*.png"))):
        _same_size(path, first + place)


def test_another_data_set_of_the_same_names_sizes_and_times_is_another(own: Path) -> None:
    cwd = own.parent
    shutil.copytree(own, cwd / "other")
    _fixed(own, 1000)
    _fixed(cwd / "other", 5000)
    first = dua(cwd, *OWN, *MLP, "paths.output_dir=out1")
    second = dua(cwd, *OWN, *MLP, "data.images.root=other", "paths.output_dir=out2")
    assert (first.status, second.status) == (0, 0), second.err
    assert "reused" not in second.out
    pictures = [(cwd / f"out{i}" / "figures" / "domains.png").read_bytes() for i in (1, 2)]
    assert pictures[0] != pictures[1]


@pytest.mark.slow
def test_a_job_whose_pictures_have_changed_in_place_is_not_finished(own: Path) -> None:
    cwd = own.parent
    _fixed(own, 1000)
    sweep = ("-m", "seed=1", *OWN, *MLP)
    assert dua(cwd, *sweep).status == 0
    assert "finished before, skipped" in dua(cwd, *sweep).out
    for who, reused in (("users/ann", "reused 2 experts and 0 of 1 results"), ("server", "experts trained")):
        _fixed(own / who, 5000)
        done = dua(cwd, *sweep)
        assert done.status == 0, done.err
        assert "skipped" not in done.out
        assert reused in done.out
    assert len(list(cwd.rglob("results/*.safetensors"))) == 3
    own.rename(cwd / "away")
    done = dua(cwd, *sweep)
    assert done.status == 2
    assert "own is not a folder" in done.err


NASTY = (
    *("a=b,c [red]", "Jos\udce9", "cafe\u0301", "\u202e\u05d0\u05d1", "x\ny\r'\""),
    *("\U0001f469\u200d\U0001f680" + "z" * 200, "007"),
)


def test_users_tasks_and_categories_may_have_any_names(own: Path) -> None:
    for n, name in enumerate(NASTY[1:]):
        shutil.copytree(own / "users" / "ann", own / "users" / name)
        (own / "users" / name / "a" / "x" / "0.png").rename(own / "users" / name / "a" / "x" / f"{NASTY[n]}.png"[-99:])
    (own / "users" / "ann").rename(own / "users" / NASTY[0])
    for place in [own / "server", *(own / "users").iterdir()]:
        (place / "a" / "x").rename(place / "a" / NASTY[0])
        (place / "a").rename(place / NASTY[1])
        (place / "b" / "z").rename(place / "b" / NASTY[4])
        (place / "b").rename(place / NASTY[5])
    done = dua(own.parent, *OWN, *MLP, "adapt=finetune", "logger=csv")
    assert done.status == 0, done.err
    assert "Traceback" not in done.out + done.err
    expected = {name.replace("\udce9", "\\xe9") for name in NASTY}
    assert set(records.read(own.parent / "out" / "records.csv")["user"]) == expected
    found = records.table(own.parent / "out" / "costs.csv", CostRecord)
    assert set(found["user"]) == expected
    assert set(found["task"]) == {"Jos\\xe9", NASTY[5]}
    assert dua(own.parent, *OWN, *MLP, "adapt=finetune", "logger=csv").out.count("7 of 7 results") == 1


def test_costs_of_an_earlier_run_in_the_folder_are_not_shown_as_those_of_this_one(own: Path) -> None:
    assert "cost of adapting" in dua(own.parent, *OWN, *MLP, "adapt=finetune").out
    done = dua(own.parent, *OWN, *MLP, "adapt=none")
    assert "cost of adapting" not in done.out
    assert not (own.parent / "out" / "costs.csv").exists()


@pytest.mark.parametrize("kind", ["experts", "results"])
def test_an_entry_that_was_changed_is_refused_and_stays(kind: str, cwd: Path) -> None:
    assert dua(cwd, *TINY).status == 0
    path = sorted(cwd.rglob(f"{kind}/*.safetensors"))[0]
    good = path.read_bytes()
    if kind == "experts":
        # Nothing reads an expert while all results are there.
        shutil.rmtree(path.parents[1] / "results")
    for content in (good[: len(good) // 2], pickle.dumps(Payload(cwd / "canary"))):
        path.write_bytes(content)
        done = dua(cwd, *TINY)
        assert refused(done), done
        assert path.name in done.err
        assert "delete it to make it again" in done.err
        assert path.read_bytes() == content
        assert not (cwd / "canary").exists()
    path.unlink()
    assert dua(cwd, *TINY).status == 0


def test_the_weights_of_another_network(own: Path) -> None:
    torch.save({"w": torch.zeros(3)}, own.parent / "w.pth")
    sizes = ("data.images.size=32", "data.input_size=32", "model.width=0.01", "model.pooled=1")
    done = dua(own.parent, *OWN, "model=vgg11", *sizes, "model.weights=w.pth")
    assert refused(done), done
    assert "w.pth" in done.err
