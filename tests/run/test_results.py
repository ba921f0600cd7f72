"""Results by every engine: the same table in the same order, and what is in the store is not computed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dua_lightning.report.records import read
from dua_lightning.run import draws, results
from tests.helpers.cli import TINY, Done, run

Run = Callable[..., Done]
POPULATION = (
    *("data=population", "data.images.server_per_category=6", "data.fewest_images=3", "data.most_images=6"),
    *("trainer.max_epochs=1", "model.width=8", "threads=1", "logger=none"),
)


@pytest.fixture
def dua(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """The command line with the folders of a name, by one thread."""

    def call(name: str, *arguments: str, size: tuple[str, ...] = (*TINY, "threads=1", "logger=none")) -> Done:
        places = (f"paths.output_dir={tmp_path / name}", f"paths.store_dir={tmp_path / name / 'store'}")
        done = run(*size, *arguments, *places, capfd=capfd, monkeypatch=monkeypatch)
        assert done.status == 0, done.err
        return done

    return call


@pytest.mark.slow
def test_processes_give_the_bits_of_one_and_what_is_missing_alone(dua: Run, tmp_path: Path) -> None:
    # Server priors, finetuning, joint training and users' priors are among the rows.
    dua("one", "method=all")
    shutil.copytree(tmp_path / "one" / "store", tmp_path / "two" / "store")
    kept = sorted((tmp_path / "two" / "store" / "results").glob("[!.]*"))
    for path in kept[5:]:
        path.unlink()
    done = dua("two", "method=all", "engine=loky", "engine.workers=2")
    assert "seed 1: reused 6 experts and 5 of 30 results" in done.out.splitlines()
    one, two = ((tmp_path / name / "records.csv").read_bytes() for name in ("one", "two"))
    assert one == two


@pytest.mark.slow
def test_whatever_finishes_first_the_table_is_in_order(
    dua: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = ("method=racl", "data.iterations=4", "seed=[1,2]")
    dua("serial", *rows)
    shutil.rmtree(tmp_path / "serial" / "store" / "results")
    for most_waiting in (1, 1000):
        monkeypatch.setattr(results, "MOST_WAITING", most_waiting)
        shutil.copytree(tmp_path / "serial" / "store", tmp_path / str(most_waiting) / "store")
        done = dua(str(most_waiting), *rows, "engine._target_=tests.engines.toys.Backwards")
        assert "reused 2 experts and 0 of 12 results" in done.out
        serial, backwards = ((tmp_path / name / "records.csv").read_bytes() for name in ("serial", str(most_waiting)))
        assert serial == backwards


def test_where_everything_is_stored_no_draw_is_sent_and_no_prior_measured(
    dua: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dua("out", "method=imm")
    first = (tmp_path / "out" / "records.csv").read_bytes()
    monkeypatch.setattr(draws.Draws, "compute", None)
    monkeypatch.setattr(results.server, "measure", None)
    assert "reused 2 experts and 3 of 3 results" in dua("out", "method=imm", "engine=loky").out
    assert (tmp_path / "out" / "records.csv").read_bytes() == first


def test_rows_that_adapt_may_do_so_after_the_last_task_alone(dua: Run, tmp_path: Path) -> None:
    dua("each", "adapt=finetune", "adapt.epochs=1")
    dua("last", "adapt=finetune", "adapt.epochs=1", "adapt_after=last_task")
    dua("none", "adapt=none", "adapt_after=last_task")
    each, last, none = (read(tmp_path / name / "records.csv") for name in ("each", "last", "none"))
    assert set(each["after"]) == set(none["after"]) == {1, 2}
    assert each[each["after"] == 2].reset_index(drop=True).equals(last)


@pytest.mark.slow
def test_a_population_is_shown_by_its_spread_and_grows_by_what_is_new(dua: Run, tmp_path: Path) -> None:
    few = dua("out", "data.users=3", size=POPULATION)
    assert "p95" not in few.out
    many = dua("out", "data.users=101", size=POPULATION)
    assert "cost per user" in many.out
    assert "p95" in many.out
    assert "reused 5 experts and 3 of 101 results" in many.out
    (name, row), (_, cost) = json.loads((tmp_path / "out" / "summary.json").read_text()).items()
    assert (name, row["draws"], cost["draws"]) == ("MAS-RACL", 101, 98)
    assert list(row["percentiles"].values()) == sorted(row["percentiles"].values())
    frame = read(tmp_path / "out" / "records.csv")
    assert list(dict.fromkeys(frame["user"])) == [f"user_{k}" for k in range(1, 102)]
