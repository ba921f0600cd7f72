"""Real downloads from a server on this machine that breaks off, forgets and lies; archives that hurt."""

import hashlib
import io
import socket
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dua_lightning.data import download as module
from dua_lightning.data.download import download, extract
from dua_lightning.errors import InputError
from tests.data.scenes import Web, serving, tar, tree

CONTENT = np.random.default_rng(0).bytes(1_000_000)
OTHER = np.random.default_rng(1).bytes(900_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def web() -> Iterator[Web]:
    with serving(Web(file=CONTENT)) as serves:
        yield serves


def broken(web: Web, path: Path, after: int = 300_000) -> None:
    """A download that breaks off and is given up."""
    web.breaks = [after]
    with pytest.raises(InputError, match=r"came only in part .*run again, and the download goes on"):
        download(f"{web.url}/file", path, attempts=1)
    assert not path.exists()
    web.asked.clear()


@pytest.mark.parametrize("digest", [None, DIGEST, DIGEST.upper()])
def test_a_file_comes_whole_with_its_digest(digest: str | None, web: Web, tmp_path: Path) -> None:
    assert download(f"{web.url}/file", tmp_path / "deep" / "file.bin", digest) == DIGEST
    assert (tmp_path / "deep" / "file.bin").read_bytes() == CONTENT
    assert tree(tmp_path) == ["deep", "deep/file.bin"]


def test_an_empty_file_comes(web: Web, tmp_path: Path) -> None:
    web.files["file"] = b""
    assert download(f"{web.url}/file", tmp_path / "f") == hashlib.sha256(b"").hexdigest()
    assert tree(tmp_path) == ["f"]


def test_a_bar_is_drawn_on_a_terminal_only(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    download(f"{web.url}/file", tmp_path / "a.bin")
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("FORCE_COLOR", "1")
    download(f"{web.url}/file", tmp_path / "a.bin")
    out, err = capsys.readouterr()
    assert out == ""
    assert "downloading a.bin" in err


def test_a_later_call_goes_on_where_the_connection_broke(web: Web, tmp_path: Path) -> None:
    broken(web, tmp_path / "f")
    assert (tmp_path / "f.part").read_bytes() == CONTENT[:300_000]
    assert download(f"{web.url}/file", tmp_path / "f", DIGEST) == DIGEST
    assert web.asked == [("file", "bytes=300000-")]
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert tree(tmp_path) == ["f"]


def test_one_call_goes_on_by_itself(web: Web, tmp_path: Path) -> None:
    web.breaks = [300_000, 1]
    assert download(f"{web.url}/file", tmp_path / "f") == DIGEST
    assert web.asked == [("file", None), ("file", "bytes=300000-"), ("file", "bytes=300001-")]


def test_without_an_etag_the_time_of_change_serves(web: Web, tmp_path: Path) -> None:
    web.headers["ETag"] = 'W/"weak"'
    broken(web, tmp_path / "f")
    assert (tmp_path / "f.part.tag").read_text().endswith("2024 00:00:00 GMT")
    assert download(f"{web.url}/file", tmp_path / "f") == DIGEST
    assert web.asked == [("file", "bytes=300000-")]


def test_a_server_that_sends_no_parts_starts_afresh(web: Web, tmp_path: Path) -> None:
    broken(web, tmp_path / "f")
    web.ranges = False
    assert download(f"{web.url}/file", tmp_path / "f") == DIGEST
    assert web.asked == [("file", "bytes=300000-")]


def test_a_file_without_a_version_starts_afresh(web: Web, tmp_path: Path) -> None:
    web.headers = {}
    broken(web, tmp_path / "f")
    assert download(f"{web.url}/file", tmp_path / "f") == DIGEST
    assert web.asked == [("file", None)]


@pytest.mark.parametrize("conditions", [True, False], ids=["heeds If-Range", "ignores If-Range"])
@pytest.mark.parametrize("after", [300_000, 950_000], ids=["shorter", "longer than the new file"])
def test_a_file_that_has_changed_starts_afresh(conditions: bool, after: int, web: Web, tmp_path: Path) -> None:
    broken(web, tmp_path / "f", after)
    web.files["file"], web.headers["ETag"], web.conditions = OTHER, '"2"', conditions
    assert download(f"{web.url}/file", tmp_path / "f") == hashlib.sha256(OTHER).hexdigest()
    assert (tmp_path / "f").read_bytes() == OTHER
    afresh = [] if conditions else [("file", None)]
    assert web.asked == [("file", f"bytes={after}-"), *afresh]


def test_a_part_that_was_not_asked_for_is_not_used(web: Web, tmp_path: Path) -> None:
    broken(web, tmp_path / "f")
    web.shift = 7
    assert download(f"{web.url}/file", tmp_path / "f") == DIGEST
    assert web.asked == [("file", "bytes=300000-"), ("file", None)]


def test_a_part_of_another_address_is_not_used(web: Web, tmp_path: Path) -> None:
    broken(web, tmp_path / "f")
    web.files["other"] = OTHER
    assert download(f"{web.url}/other", tmp_path / "f") == hashlib.sha256(OTHER).hexdigest()
    assert web.asked == [("other", None)]


def test_a_part_that_is_all_there_is_asked_for_no_more(web: Web, tmp_path: Path) -> None:
    broken(web, tmp_path / "f")
    (tmp_path / "f.part").write_bytes(CONTENT)
    assert download(f"{web.url}/file", tmp_path / "f", attempts=1) == DIGEST
    assert web.asked == [("file", "bytes=1000000-")]


@pytest.mark.parametrize("resumed", [False, True])
def test_a_file_with_another_digest_is_removed(resumed: bool, web: Web, tmp_path: Path) -> None:
    if resumed:
        broken(web, tmp_path / "f")
        (tmp_path / "f.part").write_bytes(b"x" * 300_000)
    with pytest.raises(InputError, match=r"file has the SHA-256 digest \w{64}, not \w{64}, and was removed; run again"):
        download(f"{web.url}/file", tmp_path / "f", DIGEST if resumed else "0" * 64)
    assert tree(tmp_path) == []


def test_a_file_that_is_replaced_stays_until_the_new_one_is_there(web: Web, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("old")
    web.breaks = [5]
    with pytest.raises(InputError):
        download(f"{web.url}/file", tmp_path / "f", attempts=1)
    assert (tmp_path / "f").read_text() == "old"
    download(f"{web.url}/file", tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == CONTENT


def test_every_failure_is_one_line_with_the_address(web: Web, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{unused.getsockname()[1]}/file"
    cases = {
        f"{web.url}/missing": r"answered 404 Not Found\); check the address",
        nowhere: r"could not be reached \(.*refused\); check the network",
        "http:///file": "could not be reached",
        "http://127.0.0.1:port/file": "could not be reached",
        "file:///etc/hostname": "begins with http",
        "ftp://127.0.0.1/file": "begins with http",
    }
    for url, text in cases.items():
        with pytest.raises(InputError, match=text) as caught:
            download(url, tmp_path / "f", timeout=2)
        assert str(caught.value).startswith(url)
        assert "\n" not in str(caught.value)
    assert tree(tmp_path) == []


@pytest.mark.parametrize(
    "answer", [b"", b"no http at all\r\n\r\n", b"HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\nhalf"]
)
@pytest.mark.parametrize("silent", [False, True])
def test_a_server_that_talks_nonsense_or_falls_silent(answer: bytes, silent: bool, tmp_path: Path) -> None:
    over = threading.Event()

    def serve(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(answer)
            if silent:
                over.wait(10)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,), daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/f"
        with pytest.raises(InputError, match=r"came only in part|could not be reached"):
            download(url, tmp_path / "f", timeout=0.2, attempts=1)
        over.set()
        thread.join()
    assert not (tmp_path / "f").exists()


def test_a_file_that_does_not_fit_is_not_begun(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(free=9))
    with pytest.raises(InputError, match=r"file has 0\.00 GB, and .* has room for 0\.00 GB; make room"):
        download(f"{web.url}/file", tmp_path / "f")
    assert tree(tmp_path) == []


def test_a_folder_that_cannot_be_written_to(web: Web, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"could not be saved in .*file.*choose another folder"):
        download(f"{web.url}/file", tmp_path / "file" / "f")


FILES = {"Images/a/1.jpg": b"one" * 300, "Images/a/2.jpg": b"two", "Images/b/3.jpg": b"three" * 500}


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_an_archive_is_unpacked(mode: str, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar(FILES, mode))
    extract(tmp_path / "a.tar", tmp_path / "deep" / "out")
    out = tmp_path / "deep" / "out"
    assert {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()} == FILES
    folders = ["out", "out/Images", "out/Images/a", "out/Images/b"]
    assert tree(tmp_path / "deep") == sorted([*folders, *(f"out/{name}" for name in FILES)])


def refused(content: bytes, folder: Path, text: str = "cannot be unpacked") -> None:
    (folder / "a.tar").write_bytes(content)
    with pytest.raises(InputError, match=text) as caught:
        extract(folder / "a.tar", folder / "out")
    assert "\n" not in str(caught.value)
    assert str(folder / "a.tar") in str(caught.value)
    assert tree(folder) == ["a.tar"]


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_an_archive_cut_anywhere_is_refused(mode: str, tmp_path: Path) -> None:
    whole = tar(FILES, mode)
    # A plain archive ends with blocks of zeros, of which the first alone is enough.
    end = len(whole.rstrip(b"\0")) // 512 * 512 + 512 + 511 if mode == "w" else len(whole) - 1
    for cut in {*range(0, end, 128 if mode == "w" else 5), end - 512, end}:
        refused(whole[:cut], tmp_path)


def test_a_damaged_header_does_not_end_the_archive(tmp_path: Path) -> None:
    whole = tar(FILES)
    for start in range(0, len(whole), 512):
        if whole[start : start + 7] == b"Images/":
            refused(whole[: start + 3] + b"X" + whole[start + 4 :], tmp_path)


def test_a_compressed_archive_is_checked_by_its_own_sums(tmp_path: Path) -> None:
    whole = tar(FILES, "w:gz")
    for place in range(12, len(whole), 7):
        refused(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :], tmp_path)


@pytest.mark.parametrize("content", [b"", b"<html>sign in</html>", bytes(10), np.random.default_rng(0).bytes(5000)])
def test_what_is_no_archive_is_refused(content: bytes, tmp_path: Path) -> None:
    refused(content, tmp_path, r"cannot be unpacked .*delete it and get it again")


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> bytes:
    """A good file, then one member of a kind, then another good file."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for info in (tarfile.TarInfo("first.jpg"), tarfile.TarInfo(name), tarfile.TarInfo("last.jpg")):
            if info.name == name:
                info.type, info.linkname = kind, target
            if info.isfile():
                info.size = 4
            archive.addfile(info, io.BytesIO(b"data") if info.isfile() else None)
    return file.getvalue()


ESCAPES = {
    "parent": member("../outside.jpg"),
    "parent in the middle": member("Images/../../outside.jpg"),
    "parent that comes back": member("Images/../inside.jpg"),
    "absolute": member("/outside.jpg"),
    "absolute folder": member("/outside", tarfile.DIRTYPE),
    "symbolic link outside": member("link", tarfile.SYMTYPE, "../.."),
    "absolute symbolic link": member("link", tarfile.SYMTYPE, "/etc"),
    "symbolic link inside": member("link", tarfile.SYMTYPE, "first.jpg"),
    "hard link": member("link", tarfile.LNKTYPE, "first.jpg"),
    "hard link outside": member("link", tarfile.LNKTYPE, "../a.tar"),
    "pipe": member("pipe", tarfile.FIFOTYPE),
    "character device": member("null", tarfile.CHRTYPE),
    "block device": member("disk", tarfile.BLKTYPE),
}


@pytest.mark.parametrize("content", ESCAPES.values(), ids=ESCAPES)
def test_an_archive_that_reaches_outside_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "within").mkdir()
    refused(content, tmp_path / "within", "outside the folder|neither a regular file")
    assert tree(tmp_path) == ["within", "within/a.tar"]
    assert not Path("/outside.jpg").exists()


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar(FILES))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("")
    with pytest.raises(InputError, match=r"out is already there; remove it"):
        extract(tmp_path / "a.tar", tmp_path / "out")
    assert tree(tmp_path) == ["a.tar", "out", "out/mine"]


def test_an_interrupted_unpacking_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.tar").write_bytes(tar(FILES))
    seen: list[str] = []

    def interrupt(info: tarfile.TarInfo) -> None:
        seen.append(info.name)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "_check", interrupt)
        with pytest.raises(KeyboardInterrupt):
            extract(tmp_path / "a.tar", tmp_path / "out")
    assert tree(tmp_path) == ["a.tar"]
    # Nor is what a killed process left mixed with the new.
    (tmp_path / ".out.unpacking").mkdir()
    (tmp_path / ".out.unpacking" / "old").write_text("")
    extract(tmp_path / "a.tar", tmp_path / "out")
    assert "out/old" not in tree(tmp_path)
    assert not (tmp_path / ".out.unpacking").exists()
