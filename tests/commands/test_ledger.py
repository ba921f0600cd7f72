"""`dua ledger`: a table on the terminal, as CSV and as a figure, and bad input in one line."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from tests.helpers.cli import Done, refused, run
from tests.report import folders
from tests.report.test_tables import made

Dua = Callable[..., Done]


@pytest.fixture
def dua(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Dua:
    monkeypatch.setenv("COLUMNS", "80")
    return lambda *arguments: run("ledger", *map(str, arguments), capfd=capfd, monkeypatch=monkeypatch)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Joint, and MAS-IMM with and without AdaBN."""
    adapted = {"adapt": "adabn", "uses": "images", "label": "MAS-IMM + AdaBN"}
    better = [replace(r, **adapted, accuracy=r.accuracy + 20) for r in folders.of("imm")]
    return folders.run(tmp_path / "run", [*(r for r in made() if r.method != "racl"), *better])


def test_the_ledger_is_printed_and_written(dua: Dua, folder: Path, tmp_path: Path) -> None:
    done = dua(folder)
    assert (done.status, done.err) == (0, "")
    assert max(map(len, done.out.splitlines()[:-2])) <= 80
    frame = pd.read_csv(folder / "ledger.csv").set_index("row")
    assert frame.loc["MAS-IMM + AdaBN", "step"] == pytest.approx(20)
    assert all(text in done.out for text in ("+20.0", f"{frame.loc['MAS-IMM + AdaBN', 'accuracy']:.1f}"))
    assert done.out.split()[-2:] == [str(folder / "ledger.csv"), str(folder / "figures" / "ledger.png")]
    other = [replace(r, data="numbers") for r in made()]
    both = dua(folder, folders.run(tmp_path / "other", other, {"data": {"name": "numbers"}}), "--out", tmp_path / "out")
    assert "numbers with mlp: " in both.out
    assert set(pd.read_csv(tmp_path / "out" / "ledger.csv")["data"]) == {"digits", "numbers"}
    assert len(list((tmp_path / "out" / "figures").glob("ledger-*.png"))) == 2


def test_bad_input_is_one_line(dua: Dua, tmp_path: Path) -> None:
    alone = folders.run(tmp_path / "alone", folders.of("joint"))
    for arguments, words in (((), "required"), ((tmp_path / "absent",), "absent"), ((alone,), "two rows of one merge")):
        done = dua(*arguments)
        assert refused(done), done.err
        assert words in done.err
    assert not (alone / "ledger.csv").exists()
