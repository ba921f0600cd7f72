"""`dua init` lays out an example that can be run at once, or changes nothing."""

import csv
import shlex
from pathlib import Path

import pytest

from dua_lightning.commands.init import main
from dua_lightning.data.folder import folder
from dua_lightning.data.table import table
from dua_lightning.errors import InputError
from dua_lightning.report.records import read
from tests.helpers.cli import run


def test_folders_and_table_are_the_same_pool_below_a_megabyte(tmp_path: Path) -> None:
    assert main([str(tmp_path / "new" / "example")]) == 0
    root = tmp_path / "new" / "example"
    assert sorted(path.name for path in root.iterdir()) == ["README.txt", "pictures.csv", "server", "users"]
    assert sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) < 1_000_000
    pool, same = folder(root, 32, tmp_path / "cache"), table(root / "pictures.csv", 32, tmp_path / "cache")
    assert pool.users == same.users == ("ann", "bob", "carl")
    for name in ("pixels", "labels", "sources", "side", "owners", "places"):
        assert getattr(pool, name).equal(getattr(same, name)), name
    of = [(int((pool.labels[own] < 0).sum()), int((pool.places[own] < 0).sum())) for own in _owned(pool.owners)]
    assert of == [(0, 0), (16, 0), (16, 16)]
    with (root / "pictures.csv").open(encoding="utf-8") as file:
        assert all((root / line["path"]).is_file() for line in csv.DictReader(file))


def _owned(owners):
    return [owners == place for place in range(3)]


def test_an_empty_folder_is_filled_and_any_other_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert main(["."]) == 0
    assert (tmp_path / "empty" / "README.txt").is_file()
    (tmp_path / "file").write_text("mine")
    for name in ("empty", "file"):
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(InputError, match=f"{name} is there already and is no empty folder; name another one"):
            main([str(tmp_path / name)])
        assert sorted(tmp_path.rglob("*")) == before


def test_the_same_bits_each_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        main([str(tmp_path / name)])
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*") if path.suffix != ".txt")
    assert len(files) > 100
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)


def test_a_failure_leaves_nothing_half_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(csv, "writer", full)
    with pytest.raises(InputError, match="No space left on device"):
        main([str(tmp_path / "a")])
    assert list((tmp_path / "a").iterdir()) == []


def test_the_commands_of_the_text_run_on_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder has a space in its name, which a shell and Hydra take in quotes alone; the third is offline."""
    place = tmp_path / "my example"
    assert run("init", str(place), capfd=capfd, monkeypatch=monkeypatch).status == 0
    text = (place / "README.txt").read_text(encoding="utf-8").replace(" \\\n", "")
    commands = [shlex.split(line)[1:] for line in text.splitlines() if "+experiment" in line]
    assert len(commands) == 3
    monkeypatch.chdir(tmp_path)
    small = commands[2][2:]
    for command, name in zip([commands[1] + small, commands[2]], "ab", strict=True):
        more = ("method=racl", "adapt=adabn", "logger=none", f"paths.output_dir={name}", "trainer.max_epochs=1")
        done = run(*command, *more, capfd=capfd, monkeypatch=monkeypatch)
        assert done.status == 0, done.err
        assert "users bob, carl have no labels: personalised, not scored" in done.out
        assert set(read(Path(name) / "records.csv")["user"]) == {"ann"}
        # The table says the same as the folders, so that nothing is trained again.
        assert ("reused 2 experts and 3 of 3 results" in done.out) == (name == "b")
