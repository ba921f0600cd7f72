"""Files appear whole or not at all, and of several processes one makes them."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dua_lightning.errors import InputError
from dua_lightning.store import files as module
from dua_lightning.store.files import TEMPORARY, locked, replacing, touch, write_text

FAILURES = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS)


def there(folder: Path) -> list[tuple[str, str]]:
    return [(path.name, path.read_text()) for path in folder.iterdir()]


@pytest.mark.parametrize("number", FAILURES, ids=errno.errorcode.get)
def test_a_failed_write_is_one_line_and_leaves_the_old_file_and_nothing_else(tmp_path: Path, number: int) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half of the new")
            raise OSError(number, os.strerror(number))

    with pytest.raises(InputError, match=r"make room .* another folder") as caught:
        fail()
    assert str(caught.value).startswith(f"{path} cannot be written ({os.strerror(number)})")
    assert "\n" not in str(caught.value)
    assert there(tmp_path) == [("a.txt", "old")]


@pytest.mark.parametrize("name", ["mkstemp", "fsync", "replace"])
def test_every_step_of_a_write_may_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    write_text(tmp_path / "a.txt", "old")
    monkeypatch.setattr({"mkstemp": module.tempfile, "fsync": os, "replace": Path}[name], name, fail)
    with pytest.raises(InputError, match="Input/output error"):
        write_text(tmp_path / "a.txt", "new")
    assert there(tmp_path) == [("a.txt", "old")]


def test_what_is_no_failure_of_the_disk_passes_through(tmp_path: Path) -> None:
    def fail() -> None:
        with replacing(tmp_path / "a.txt"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert there(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/a\.txt cannot be written"):
        write_text(tmp_path / "file" / "a.txt", "new")


def test_a_finished_write_replaces_and_makes_folders(tmp_path: Path) -> None:
    for text in ("old", "new"):
        write_text(tmp_path / "deep" / "a.txt", text)
    assert there(tmp_path / "deep") == [("a.txt", "new")]


def test_bytes_are_on_the_disk_before_the_name_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, done = tmp_path / "a.txt", []
    fsync = os.fsync

    def noted(handle: int) -> None:
        done.append((os.readlink(f"/proc/self/fd/{handle}"), path.exists()))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noted)
    write_text(path, "new")
    (file, named), (folder, named_after) = done
    assert (Path(file).parent, named) == (tmp_path, False)
    assert (Path(folder), named_after) == (tmp_path, True)


def test_a_file_system_that_has_nothing_to_wait_for_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_: int) -> None:
        raise OSError(errno.EINVAL, "")

    monkeypatch.setattr(os, "fsync", refused)
    write_text(tmp_path / "a.txt", "new")
    assert there(tmp_path) == [("a.txt", "new")]


def test_a_file_that_is_being_written_is_hidden_and_known_by_its_name(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.png") as temporary:
        assert temporary.name.startswith(".a.")
        assert temporary.name.endswith(f"{TEMPORARY}.png")


def test_touching_notes_the_time_and_bears_a_file_that_is_gone(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "")
    os.utime(tmp_path / "a.txt", (0, 0))
    touch(tmp_path / "a.txt")
    assert (tmp_path / "a.txt").stat().st_mtime > 0
    touch(tmp_path / "b.txt")


def test_the_second_of_two_processes_waits_and_says_so_once(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.txt"
    code = f"""
from pathlib import Path
from dua_lightning.store.files import locked
with locked(Path({str(path)!r})):
    print("held", flush=True)
    input()
    Path({str(path)!r}).write_text("made")
"""
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        other.stdin.write("go on\n")
        other.stdin.flush()

    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        with locked(path, say):
            assert path.read_text() == "made"
    assert said == [f"waiting for another process that is making {path}"]


def test_a_lock_is_free_again_after_an_error(tmp_path: Path) -> None:
    def fail() -> None:
        with locked(tmp_path / "a"):
            raise KeyError

    for _ in range(2):
        with pytest.raises(KeyError):
            fail()
