"""Engines: the same results from this process, from others, and from those that are killed."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dua_lightning.engines import Engine, Loky, Serial
from dua_lightning.errors import InputError
from tests.engines import toys

SUMS = [("sum", value) for value in range(20)]


@pytest.fixture(scope="module", params=["serial", "loky"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Started once for all tests: a process takes seconds to load torch."""
    made: Engine = Serial() if request.param == "serial" else Loky(workers=2, threads=1)
    with made:
        toys.shared(made, tmp_path_factory.mktemp("store"))
        yield made


def test_results_are_those_of_the_items_and_of_what_was_shared(engine: Engine, tmp_path: Path) -> None:
    of_a = [float(torch.arange(1000.0).sum()) + 3 + value for _, value in SUMS]
    assert toys.results(engine, toys.work(tmp_path), SUMS, ("a",)) == of_a
    assert toys.results(engine, toys.work(tmp_path), SUMS[:1], ("a", "b")) == [of_a[0] + of_a[0] + 100_000]
    assert toys.results(engine, toys.work(tmp_path), SUMS[:1]) == [0]


def test_a_worker_is_made_once_in_each_process(engine: Engine, tmp_path: Path) -> None:
    processes = set(toys.results(engine, toys.work(tmp_path), [("process", k) for k in range(20)]))
    assert {path.name for path in tmp_path.iterdir()} == (
        set() if isinstance(engine, Serial) else {str(process) for process in processes}
    )


def test_what_a_worker_raises_comes_back_in_its_words(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^value=7 cannot be used; give another$"):
        toys.results(engine, toys.work(tmp_path), [("refuse", 7)])
    assert toys.results(engine, toys.work(tmp_path), SUMS[:2]) == [0, 1]


@pytest.mark.slow
def test_a_result_is_received_as_soon_as_it_is_there(tmp_path: Path) -> None:
    with Loky(workers=2) as engine:
        for place, wish in enumerate([("sleep", 3), ("sum", 1), ("sum", 2)]):
            engine.submit(toys.work(tmp_path), place, wish, ())
        assert {engine.receive()[0] for _ in range(2)} == {1, 2}
        assert engine.receive()[0] == 0


def test_writing_to_what_is_shared_fails_loudly_in_processes(tmp_path: Path) -> None:
    with Loky(workers=1, threads=2) as engine:
        toys.shared(engine, tmp_path)
        assert toys.results(engine, toys.work(tmp_path), [("threads", 0)]) == [2]
        with pytest.raises(RuntimeError, match="x of a was written to"):
            toys.results(engine, toys.work(tmp_path), [("write", 0)], ("a", "b"))
        engine.submit(toys.work(tmp_path), 0, ("die", 0), ())
        with pytest.raises(InputError, match=r"start fewer workers"):
            engine.receive()


def test_an_exception_ends_workers_at_once(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        interrupted(tmp_path)
    assert time.monotonic() - began < 30


def interrupted(folder: Path) -> None:
    with Loky(workers=1) as engine:
        engine.submit(toys.work(folder), 0, ("sleep", 600), ())
        while not list(folder.iterdir()):
            time.sleep(0.05)
        raise KeyboardInterrupt


@pytest.mark.parametrize("settings", [{"workers": 0}, {"workers": -1}, {"threads": 0}, {"workers": 10**9}])
def test_numbers_that_cannot_be_are_refused_by_name(settings: dict[str, int]) -> None:
    ((name, value),) = settings.items()
    with pytest.raises(InputError, match=f"{name}={value} "):
        Loky(**settings)
