"""An array that is made once is mapped, not made again, and appears whole or not at all."""

import errno
import io
import os
import pickle
import resource
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from dua_lightning.data.cache import Rows, cached
from dua_lightning.errors import InputError
from tests.data.scenes import tree

SHAPE = (3, 2, 4)


def filling(value: int, calls: list[int]) -> Callable[[Rows], None]:
    def write(rows: Rows) -> None:
        calls.append(value)
        rows[:] = value + np.arange(24).reshape(SHAPE)

    return write


def test_a_second_call_maps_and_makes_nothing(tmp_path: Path) -> None:
    calls: list[int] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = cached(tmp_path / "deep" / "er", ["a", 1], SHAPE, filling(5, calls))
        mapped = cached(tmp_path / "deep" / "er", ["a", 1], SHAPE, filling(7, calls))
    assert calls == [5]
    assert made.dtype == torch.uint8
    assert made.tolist() == mapped.tolist() == (5 + torch.arange(24).reshape(SHAPE)).tolist()
    assert len(tree(tmp_path / "deep" / "er")) == 1


def test_every_key_and_shape_has_a_file(tmp_path: Path) -> None:
    calls: list[int] = []
    keys = [["a", 1], ["a", "1"], ["a1"], [["a"], 1], ["a", 2], ["a", True], ["a", None], [{"a": 1}]]
    for value, key in enumerate(keys):
        cached(tmp_path, key, SHAPE, filling(value, calls))
    cached(tmp_path, keys[0], (6, 4), lambda rows: None)
    assert calls == list(range(8))
    assert len(tree(tmp_path)) == 9
    assert [int(cached(tmp_path, key, SHAPE, filling(99, calls)).flatten()[0]) for key in keys] == list(range(8))


def test_the_file_is_a_plain_npy_named_by_its_digest(tmp_path: Path) -> None:
    cached(tmp_path, ["a"], SHAPE, filling(0, []))
    [name] = tree(tmp_path)
    assert len(name) == 64 + len(".npy")
    assert np.load(tmp_path / name, allow_pickle=False).shape == SHAPE


def test_only_what_is_read_is_loaded_and_what_is_written_stays_private(tmp_path: Path) -> None:
    large = (200, 1_000_000)
    rows = cached(tmp_path, ["large"], large, lambda rows: None)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    again = cached(tmp_path, ["large"], large, lambda rows: None)
    assert again[[0, 199]].sum() == 0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000
    rows[0] = 1
    assert again[0].sum() == 0
    assert cached(tmp_path, ["large"], large, lambda rows: None)[0].sum() == 0


@pytest.mark.parametrize("failure", [KeyboardInterrupt, SystemExit, ZeroDivisionError])
def test_an_interruption_leaves_nothing_behind(failure: type[BaseException], tmp_path: Path) -> None:
    def write(rows: Rows) -> None:
        rows[0] = 1
        raise failure

    with pytest.raises(failure):
        cached(tmp_path, ["a"], SHAPE, write)
    assert tree(tmp_path) == []
    calls: list[int] = []
    cached(tmp_path, ["a"], SHAPE, filling(0, calls))
    assert calls == [0]


def test_a_full_disk_is_found_before_anything_is_written(tmp_path: Path) -> None:
    """The limit on a file's size makes any disk full; a map without room would kill the process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    calls: list[int] = []
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(InputError, match=r"cache .* of 0\.20 GB .*File too large.* make room"):
            cached(tmp_path, ["a"], (200, 1_000_000), lambda rows: calls.append(0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not calls
    assert tree(tmp_path) == []


def test_space_is_taken_before_it_is_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    calls: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(InputError, match="No space left on device"):
            cached(tmp_path, ["a"], SHAPE, filling(0, calls))
    assert not calls
    assert tree(tmp_path) == []
    blocks = cached(tmp_path, ["large"], (50, 1_000_000), lambda rows: None)
    assert len(blocks) == 50
    [name] = tree(tmp_path)
    assert (tmp_path / name).stat().st_blocks * 512 >= 50_000_000


def test_a_folder_that_cannot_be_made_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/cache.*choose another cache folder"):
        cached(tmp_path / "file" / "cache", ["a"], SHAPE, filling(0, []))


def test_what_a_killed_process_left_is_written_over(tmp_path: Path) -> None:
    cached(tmp_path, ["a"], SHAPE, filling(0, []))
    [name] = tree(tmp_path)
    (tmp_path / name).rename(tmp_path / f".{name}")
    (tmp_path / f".{name}").write_bytes(b"x" * 9999)
    assert cached(tmp_path, ["a"], SHAPE, filling(3, [])).flatten().tolist() == list(range(3, 27))
    assert tree(tmp_path) == [name]


def npy(array: np.ndarray, **options: bool) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


GOOD = npy(np.zeros(SHAPE, np.uint8))
DAMAGED = {
    "empty": b"",
    "cut in its header": GOOD[:40],
    "cut in its data": GOOD[:-1],
    "too long": GOOD + b"x",
    "text": b"a picture\n" * 20,
    "bytes without a digest": npy(np.zeros(SHAPE, np.uint8)),
    "another type": npy(np.zeros(SHAPE, np.int8)),
    "another shape": npy(np.zeros((4, 3, 2), np.uint8)),
    "another order": npy(np.asfortranarray(np.zeros(SHAPE, np.uint8))),
    "a pickle": npy(np.array([{}], dtype=object), allow_pickle=True),
    "a bare pickle": pickle.dumps(GOOD),
    "a broken header": GOOD.replace(b"'shape'", b"'shap{'"),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_or_foreign_file_is_named(content: bytes, tmp_path: Path) -> None:
    cached(tmp_path, ["a"], SHAPE, filling(0, []))
    [name] = tree(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name}.*; delete it to make it again") as caught:
        cached(tmp_path, ["a"], SHAPE, filling(0, []))
    assert "\n" not in str(caught.value)
    assert (tmp_path / name).read_bytes() == content
    (tmp_path / name).unlink()
    assert cached(tmp_path, ["a"], SHAPE, filling(0, [])).shape == SHAPE


def test_a_changed_byte_or_the_bytes_of_another_key_are_named(tmp_path: Path) -> None:
    """Both have the size and the shape of what was written."""
    cached(tmp_path, ["a"], SHAPE, filling(0, []))
    [first] = tree(tmp_path)
    good = (tmp_path / first).read_bytes()
    for place in (len(GOOD) - 24, len(GOOD) - 1, len(good) - 1):
        (tmp_path / first).write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with pytest.raises(InputError, match=f"{first} holds another uint8 array .* than .* written under its name"):
            cached(tmp_path, ["a"], SHAPE, filling(0, []))
    (tmp_path / first).write_bytes(good)
    cached(tmp_path, ["b"], SHAPE, filling(1, []))
    (second,) = {*tree(tmp_path)} - {first}
    (tmp_path / second).write_bytes(good)
    with pytest.raises(InputError, match=f"{second} holds another"):
        cached(tmp_path, ["b"], SHAPE, filling(1, []))


@pytest.mark.slow
def test_of_several_processes_one_writes(tmp_path: Path) -> None:
    code = f"""
import os, time
from pathlib import Path
from dua_lightning.data.cache import cached
def write(rows):
    with open({str(tmp_path / "log")!r}, "a") as log: log.write("wrote\\n")
    time.sleep(0.5)
    rows[:] = 7
print(int(cached(Path({str(tmp_path / "cache")!r}), ["a"], (10, 10), write).sum()))
"""
    processes = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0].strip() for process in processes] == ["700"] * 2
    assert (tmp_path / "log").read_text() == "wrote\n"


def test_the_sources_of_pictures_load_neither_lightning_nor_hydra() -> None:
    names = ("cache", "decode", "download", "folder", "mit_indoor", "photos")
    code = f"import sys, {', '.join(f'dua_lightning.data.{name}' for name in names)}\n" + (
        "print([p for p in ('lightning', 'hydra', 'omegaconf', 'torchvision', 'skimage') if p in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
