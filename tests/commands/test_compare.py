"""`dua compare`: settings and results that differ, and what cannot be compared."""

import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from dua_lightning.commands import compare as contrast
from dua_lightning.report.reduce import compared
from dua_lightning.report.runs import study
from tests.helpers.cli import Done, refused, run
from tests.reference import statistics_loops
from tests.report import folders
from tests.report.test_tables import made

Dua = Callable[..., Done]


@pytest.fixture
def dua(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Dua:
    monkeypatch.setenv("COLUMNS", "120")
    return lambda *arguments: run("compare", *map(str, arguments), capfd=capfd, monkeypatch=monkeypatch)


@pytest.fixture
def a(tmp_path: Path) -> Path:
    return folders.run(tmp_path / "a")


@pytest.fixture
def b(tmp_path: Path) -> Path:
    """Better by seed / 10, and without the third seed of MAS-RACL."""
    better = [replace(r, accuracy=r.accuracy + r.seed**2 / 10) for r in made()]
    kept = [r for r in better if (r.method, r.seed) != ("racl", 3)]
    return folders.run(tmp_path / "b", kept, {"optimizer": {"lr": 0.01}, "seed": [1, 2]})


def results(a: Path, b: Path) -> pd.DataFrame:
    return compared(*(study([folder]).reduced.draws for folder in (a, b)))


def test_results_are_paired_where_they_agree(a: Path, b: Path) -> None:
    found = results(a, b).set_index(["row", "figure"])
    line = found.loc[("MAS-IMM", "accuracy")]
    assert (line["B - A"], line["pairs"]) == (pytest.approx(statistics.mean([0.1, 0.4, 0.9])), 12)
    assert line["CI (seeds)"] == pytest.approx(statistics_loops.half([0.1, 0.4, 0.9]), rel=1e-4)
    assert line["B - A"] == pytest.approx(line["B"] - line["A"])
    assert found.loc[("MAS-RACL", "accuracy"), "pairs"] == 8
    assert found.loc[("MAS-RACL", "accuracy"), "B - A"] == pytest.approx(0.25)
    assert found.loc[("MAS-IMM", "forgetting"), "B - A"] == pytest.approx(0)
    assert ("Joint", "forgetting") not in found.index


def test_settings_that_differ_are_named(a: Path, b: Path) -> None:
    found = contrast.settings(study([a]), study([b]))
    assert found == [("optimizer.lr", "0.001", "0.01"), ("seed", "1 | 2 | 3", "1 | 2")]
    assert contrast.settings(study([a]), study([a])) == []


def test_a_commit_is_cut(a: Path, tmp_path: Path) -> None:
    other = folders.run(tmp_path / "other")
    text = (other / "environment.json").read_text()
    (other / "environment.json").write_text(text.replace("abc", 10 * "abcd"))
    assert contrast.settings(study([a]), study([other])) == [("git_commit", "abc", "abcdabcdabcd")]


def test_rows_of_one_side_alone_are_named_without_their_settings(a: Path, tmp_path: Path) -> None:
    one = folders.run(tmp_path / "one", folders.of("imm"), {"method": {"name": "imm", "strength": 1}})
    assert contrast.settings(study([a]), study([one])) == [("rows", "MAS-RACL | MAS-IMM | Joint", "MAS-IMM")]


def test_two_single_rows_are_compared_whatever_their_names(tmp_path: Path) -> None:
    a, b = (folders.run(tmp_path / method, folders.of(method)) for method in ("imm", "racl"))
    found = results(a, b).set_index("figure")
    assert found.loc["accuracy", "row"] == "MAS-IMM / MAS-RACL"
    assert found.loc["accuracy", "B - A"] == pytest.approx(2.0)


def test_networks_are_compared_where_each_side_has_one(a: Path, tmp_path: Path) -> None:
    wide = folders.run(tmp_path / "wide", [replace(r, model="alexnet") for r in made()])
    assert len(results(a, wide)) == 5
    both = folders.run(tmp_path / "both", [*made(), *(replace(r, model="alexnet", accuracy=1.0) for r in made())])
    found = results(a, both)
    assert set(found["row"]) == {"mlp / MAS-RACL", "mlp / MAS-IMM", "mlp / Joint"}
    assert (found["B - A"].abs() < 1e-9).all()


def test_the_command_prints_both_tables(dua: Dua, a: Path, b: Path) -> None:
    done = dua(a, b)
    assert (done.status, done.err) == (0, "")
    (line,) = (line for line in done.out.splitlines() if "MAS-RACL" in line and "accuracy" in line)
    assert "+0.25" in line
    assert "optimizer.lr" in done.out
    assert "no setting differs" in dua(a, a).out


def test_bad_input_is_one_line(dua: Dua, a: Path, tmp_path: Path) -> None:
    other = folders.run(tmp_path / "other", [replace(r, data="numbers") for r in made()])
    for arguments, words in (
        ((a,), "B"),
        ((a, tmp_path / "absent"), "absent"),
        ((a, other), "in common"),
        ((a, a, a), "unrecognized"),
    ):
        done = dua(*arguments)
        assert refused(done), done.err
        assert words in done.err
