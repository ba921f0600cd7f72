"""`dua store`: what there is, what made it, what is damaged, and what goes."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.filesize import decimal

from dua_lightning.store.store import DAY, Recipe, Store
from tests.helpers.cli import Done, run

Dua = Callable[..., Done]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An expert, used now, and two results, used a month ago; the commands find it by the environment."""
    monkeypatch.setenv("DUA_STORE_DIR", str(tmp_path / "store"))
    monkeypatch.setenv("DUA_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "120")
    store = Store(tmp_path / "store")
    expert = {"training": "sequential", "data": [{"task": "kitchen"}, {"task": "bathroom"}]}
    store.put(Recipe("experts", expert), {"weight": torch.zeros(1000, 3)})
    for n in (1, 2):
        store.put(Recipe("results", {"n": n}), {"R": torch.zeros(2, 2)})
        os.utime(store.path(Recipe("results", {"n": n})), (time.time() - 30 * DAY,) * 2)
    return store


@pytest.fixture
def dua(store: Store, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Dua:
    return lambda *arguments: run("store", *arguments, capfd=capfd, monkeypatch=monkeypatch)


def test_the_list_shows_kinds_digests_sizes_and_their_sum(dua: Dua, store: Store) -> None:
    done = dua("list")
    assert done.status == 0
    for entry in store.entries():
        (line,) = (line for line in done.out.splitlines() if entry.key[:12] in line)
        assert entry.kind in line
    (expert,) = (line for line in done.out.splitlines() if "experts" in line)
    assert decimal(store.entries()[0].bytes) in expert
    assert time.strftime("%Y-%m-%d") in expert
    assert "bathroom" in expert
    assert "kitchen" not in expert
    (total,) = (line for line in done.out.splitlines() if "3 files" in line)
    assert "kB" in total


@pytest.mark.parametrize(
    ("made_of", "task"), [({"training": "joint", "data": [{"task": "kitchen"}]}, "joint"), ({"data": []}, "")]
)
def test_the_list_names_a_joint_model_and_leaves_out_what_is_not_known(
    dua: Dua, store: Store, made_of: dict[str, object], task: str
) -> None:
    recipe = Recipe("experts", made_of)
    store.put(recipe, {"weight": torch.zeros(1)})
    store.path(Recipe("experts", {"n": 3})).write_text("no expert")
    done = dua("list")
    assert done.status == 0
    (line,) = (line for line in done.out.splitlines() if recipe.key[:12] in line)
    assert [cell.strip() for cell in line.strip("│").split("│")][:2] == ["experts", task]


def test_show_says_what_made_an_entry_and_what_is_in_it(dua: Dua, store: Store) -> None:
    done = dua("show", store.entries()[0].key[:9])
    assert done.status == 0
    for words in ('"task": "bathroom"', '"made_at"', "weight", "float32", "1000 x 3", store.entries()[0].key):
        assert words in done.out


def test_a_digest_that_names_nothing_or_several_is_one_line(dua: Dua) -> None:
    for digest, words in (("zz", "starts with zz"), ("", "3 digests")):
        done = dua("show", digest)
        assert done.status == 2
        (line,) = done.err.splitlines()
        assert line.startswith("error: ")
        assert words in line


def test_verify_lists_every_damaged_entry_and_says_so_in_its_status(dua: Dua, store: Store) -> None:
    assert dua("verify").status == 0
    for entry in store.entries()[1:]:
        entry.path.write_bytes(b"damaged")
    done = dua("verify")
    assert done.status == 1
    *damaged, last = done.out.splitlines()
    assert [any(str(entry.path) in line for line in damaged) for entry in store.entries()].count(True) == 2
    assert last == "1 whole, 2 damaged"


def test_gc_removes_what_was_not_used_and_a_dry_run_only_says_so(dua: Dua, store: Store) -> None:
    done = dua("gc", "--keep-days", "29", "--dry-run")
    assert done.status == 0
    assert "would be removed" in done.out
    assert "2 files" in done.out
    assert len(store.entries()) == 3
    assert "nothing removed" in dua("gc", "--keep-days", "31").out
    assert "2 files" in dua("gc", "--keep-days", "29").out
    assert [entry.kind for entry in store.entries()] == ["experts"]


def test_another_store_can_be_named_and_one_that_is_not_there_is_one_line(dua: Dua, store: Store, tmp_path) -> None:
    assert "0 files" in dua("list", "--root", str(tmp_path)).out
    done = dua("list", "--root", str(tmp_path / "absent"))
    assert done.status == 2
    (line,) = done.err.splitlines()
    assert "absent is not a folder" in line


@pytest.mark.parametrize("arguments", [("gc",), ("gc", "--keep-days", "x"), ("gc", "--keep-days=-1"), (), ("ls",)])
def test_bad_arguments_are_status_2(dua: Dua, store: Store, arguments: tuple[str, ...]) -> None:
    done = dua(*arguments)
    assert done.status == 2
    assert "error: " in done.err
    assert len(store.entries()) == 3


def test_help_does_not_load_torch() -> None:
    code = (
        "import sys\nfrom dua_lightning.__main__ import main\nsys.argv[1:] = ['store', '--help']\n"
        "try: main()\nexcept SystemExit as stop: print(stop.code, 'torch' in sys.modules, 'pandas' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 False False"
