"""Files appear whole or not at all."""

from pathlib import Path

import pytest

from dua_lightning.files import replacing, write_text


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")

    def fail() -> None:
        with replacing(tmp_path / "a.txt") as temporary:
            temporary.write_text("half of the new")
            raise OSError("disk full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.txt", "old")]


def test_a_finished_write_replaces_and_makes_folders(tmp_path: Path) -> None:
    for text in ("old", "new"):
        write_text(tmp_path / "deep" / "a.txt", text)
    assert [(p.name, p.read_text()) for p in (tmp_path / "deep").iterdir()] == [("a.txt", "new")]
