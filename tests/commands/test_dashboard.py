"""`dua dashboard`: a file without a login, and bad input in one line."""

import json
from pathlib import Path

import pytest

from tests.helpers.cli import refused, run
from tests.helpers.process import spawn


def test_a_dry_run_writes_one_file_without_a_login(tmp_path: Path) -> None:
    pytest.importorskip("wandb_workspaces")
    (tmp_path / "home").mkdir()
    more = {"HOME": str(tmp_path / "home"), "WANDB_API_KEY": "", "WANDB_BASE_URL": "http://127.0.0.1:9"}
    path = tmp_path / "dashboard.json"
    done = spawn("dashboard", "me/mine", "--name", "Seeds", "--dry-run", str(path), cwd=tmp_path, more=more)
    assert (done.status, done.out.split(), done.err) == (0, [str(path)], "")
    found = json.loads(path.read_text())
    assert found["workspace"]["displayName"] == found["report"]["displayName"] == "Seeds"
    assert found["report"]["project"] == {"name": "mine", "entityName": "me"}


@pytest.mark.parametrize(
    ("key", "words"), [("", "No API key"), ("a" * 40, "127.0.0.1:9")], ids=["nobody has logged in", "no server"]
)
def test_a_service_that_cannot_be_used_is_one_line(key: str, words: str, tmp_path: Path) -> None:
    pytest.importorskip("wandb_workspaces")
    more = {"HOME": str(tmp_path), "WANDB_API_KEY": key, "WANDB_BASE_URL": "http://127.0.0.1:9"}
    done = spawn("dashboard", "me/mine", cwd=tmp_path, more=more)
    assert refused(done), done.err
    assert all(text in done.err for text in (words, "`wandb login`", "--dry-run FILE")), done.err


def test_bad_input_is_one_line(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cases = {(): "ENTITY/PROJECT", ("mine",): "'mine' is no project", ("a/b", "--nam"): "--help shows how"}
    for arguments, words in cases.items():
        done = run("dashboard", *arguments, capfd=capfd, monkeypatch=monkeypatch)
        assert refused(done), done.err
        assert words in done.err
