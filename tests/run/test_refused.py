"""Draws that cannot give a number: one line that names row, user, task and setting, and nothing of them is kept."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dua_lightning.merge import ServerStatistics
from dua_lightning.report.records import read
from dua_lightning.run.draws import Draws
from dua_lightning.store.store import Store
from tests.helpers.cli import TINY, Done, refused, run

Run = Callable[..., Done]
ROWS = ("model._target_=tests.helpers.nets.rows",)


@pytest.fixture
def dua(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    def call(*arguments: str, out: str = "out") -> Done:
        size = (*TINY, "threads=1", "logger=none", f"paths.output_dir={tmp_path / out}")
        return run(*size, *arguments, capfd=capfd, monkeypatch=monkeypatch)

    return call


def kept() -> list[str]:
    return [entry.kind for entry in Store(Path(os.environ["DUA_STORE_DIR"])).entries()]


@pytest.mark.parametrize(
    ("arguments", "row"),
    [
        (("method=task_experts", "adapt.lr=1e4"), "Task Experts, user mnist"),
        (("adapt=adabn_s", "adapt.lr=3e38", *ROWS), "MAS-RACL + AdaBN-S, user mnist"),
        (("adapt=adabn_s_released", "adapt.lr=3e38", *ROWS), "MAS-RACL + AdaBN-S (released), user mnist"),
    ],
    ids=["finetune", "adabn_s", "adabn_s_released"],
)
def test_a_device_that_diverges_is_refused_and_not_kept(dua: Run, arguments: tuple[str, ...], row: str) -> None:
    done = dua(*arguments)
    assert refused(done), done.err
    assert done.err.startswith(f"error: {row}")
    assert all(word in done.err for word in ("task 0-1", "diverged with lr=", "lower the learning rate, adapt.lr"))
    assert kept() == ["experts", "experts"]


@pytest.mark.parametrize(
    "arguments", [("method=joint",), ("method=mean_imm",), ("method=mean_imm", "adapt=adabn", *ROWS)]
)
def test_an_expert_that_is_not_finite_gives_no_number(
    dua: Run, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    here = Draws._here

    def broken(self: Draws, key: str, shared: Any) -> Any:
        found = dict(here(self, key, shared))
        name = next(name for name in found if name.endswith("1.weight"))
        return found | {name: torch.full_like(found[name], torch.nan)}

    monkeypatch.setattr(Draws, "_here", broken)
    done = dua(*arguments)
    assert refused(done), done.err
    assert ", user mnist" in done.err
    assert "task 0-1" in done.err
    assert "results" not in kept()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("adapt=adabn_s", "data.user_batch_size=1"), ("adapt=adabn_s", "user mnist", "task 0-1", "4 in number")),
        (("adapt=finetune", "data.user_batch_size=1"), ("adapt=finetune", "data.user_batch_size")),
        (("adapt=adabn", "+adapt.statistics=batch", "data.user_batch_size=1"), ("adapt=adabn", "batches of 1")),
        (("data.batch_size=1",), ("data.batch_size=1", "task 0-1", "the server's 20 training pictures")),
    ],
    ids=str,
)
def test_pictures_that_are_too_few_are_refused_before_anything_is_trained(
    dua: Run, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    done = dua(*ROWS, *arguments)
    assert refused(done), done.err
    assert all(word in done.err for word in words), done.err
    assert kept() == []


def test_exact_statistics_do_not_mind_batches_of_one(dua: Run) -> None:
    assert dua(*ROWS, "adapt=adabn", "data.user_batch_size=1").status == 0


def test_a_servers_statistics_are_taken_once_for_all_users_unless_their_priors_merge(
    dua: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    take, calls = ServerStatistics.__call__, []

    def counted(self: ServerStatistics, *given: Any) -> Any:
        calls.append(self)
        return take(self, *given)

    monkeypatch.setattr(ServerStatistics, "__call__", counted)
    asked = (*ROWS, "statistics=server", "importance=mas")
    for method, count in (("imm", 2), ("racl", 6), ("mean_imm", 2)):
        calls.clear()
        assert dua(*asked, f"method={method}", out=method).status == 0
        assert len(calls) == count, method
    monkeypatch.setattr(Draws, "_with_statistics", _taken)
    assert dua(*asked, "method=imm", f"paths.store_dir={tmp_path / 'other'}", out="anew").status == 0
    assert read(tmp_path / "imm" / "records.csv").equals(read(tmp_path / "anew" / "records.csv"))


def _taken(draws: Draws, row: Any, experts: Any, model: Any) -> Any:
    """The statistics, taken for every user."""
    return row.statistics(draws.net, experts, model, draws.benchmark.server)
