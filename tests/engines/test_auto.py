"""The engine that chooses: in this process, or in several where they are quicker; the same bits."""

import multiprocessing
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dua_lightning.engines import Auto, Loky, Work, auto
from dua_lightning.errors import InputError
from tests.engines import toys
from tests.helpers.cli import TINY, run

HERE = os.getpid()


@pytest.fixture(autouse=True)
def _two_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine with two cores and no end of memory, on which processes always pay."""
    monkeypatch.setattr(auto, "cores", lambda: 2)
    monkeypatch.setattr(auto, "_available", lambda: 10**15)
    monkeypatch.setattr(auto, "PAYS", 0.0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def several(folder: Path, items: int) -> Work:
    return replace(toys.work(folder), items=items)


def where(engine: Auto, folder: Path, items: int, device: str = "cpu") -> list[int]:
    """The process of each item."""
    work = replace(several(folder, items), device=device)
    with engine:
        found: list[int] = toys.results(engine, work, [("process", k) for k in range(items)])
    return found


def test_what_is_left_after_the_first_item_goes_to_processes_where_it_pays(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    first, *others = where(Auto(workers=2), tmp_path / "made", 8)
    assert first == HERE
    assert HERE not in others


@pytest.mark.parametrize(
    "why", ["it does not pay", "one core", "one item", "a gpu", "started by another", "no memory", "a container"]
)
def test_everything_stays_in_this_process_where(why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workers, items, device = 2, 5, "cpu"
    if why == "it does not pay":
        monkeypatch.setattr(auto, "PAYS", 1000.0)
    elif why == "one core":
        workers = 1
    elif why == "one item":
        items = 1
    elif why == "a gpu":
        device = "cuda"
    elif why == "started by another":
        monkeypatch.setattr(multiprocessing, "parent_process", lambda: "a process")
    elif why == "no memory":
        monkeypatch.setattr(auto, "_available", lambda: 10**6)
    elif why == "a container":
        monkeypatch.setattr(auto, "cores", lambda: 1)
    assert set(where(Auto(workers), tmp_path, items, device)) == {HERE}


def test_there_are_no_more_workers_than_items_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    class Counted(Loky):
        def __init__(self, workers: int) -> None:
            started.append(workers)
            super().__init__(1)

    monkeypatch.setattr(auto, "Loky", Counted)
    monkeypatch.setattr(auto, "cores", lambda: 64)
    (tmp_path / "made").mkdir()
    where(Auto(workers=50), tmp_path / "made", 4)
    assert started == [3]


@pytest.mark.slow
def test_workers_read_what_the_store_does_not_keep_and_nothing_of_it_stays(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    tensors = {"x": torch.arange(10.0), "count": torch.tensor(3)}
    before = {*tmp_path.iterdir()}
    items = [("sum", k) for k in range(6)]
    with Auto(workers=2) as engine:
        engine.share("a", tmp_path / "nowhere.safetensors", tensors)
        assert toys.results(engine, several(tmp_path / "made", 6), items, ("a",)) == [48.0 + k for k in range(6)]
        engine.share("b", tmp_path / "nowhere either.safetensors", tensors)
        assert toys.results(engine, several(tmp_path / "made", 6), items, ("a", "b")) == [96.0 + k for k in range(6)]
        assert {*tmp_path.iterdir()} != before
    assert {*tmp_path.iterdir()} == before


@pytest.mark.parametrize(("items", "threads"), [(2, 1), (1, 3)])
def test_one_thread_computes_an_item_if_there_are_as_many_as_cores(
    items: int, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auto, "PAYS", 1000.0)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with Auto(workers=2) as engine:
            found = toys.results(engine, several(tmp_path, items), [("threads", k) for k in range(items)])
        assert (set(found), torch.get_num_threads()) == ({threads}, 3)
    finally:
        torch.set_num_threads(before)


def test_a_number_that_cannot_be_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="workers=0 "):
        Auto(workers=0)


@pytest.mark.slow
def test_a_run_has_the_bits_of_one_process(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The server's priors are not kept by the store.
    rows = ("method=imm", "adapt=finetune", "threads=1", "logger=none")
    records = []
    for name, engine in (("one", "engine=serial"), ("several", "+engine.workers=2")):
        places = (f"paths.output_dir={tmp_path / name}", f"paths.store_dir={tmp_path / name / 'store'}")
        done = run(*TINY, *rows, engine, *places, capfd=capfd, monkeypatch=monkeypatch)
        assert done.status == 0, done.err
        records.append((tmp_path / name / "records.csv").read_bytes())
        assert not (tmp_path / name / "store" / "priors").exists()
    assert records[0] == records[1]
