"""Flower's simulation: the same bits, also where workers are killed. Without Flower there is one line."""

import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from dua_lightning.engines import Flower
from dua_lightning.engines import flower as module
from dua_lightning.errors import InputError
from tests.engines import toys
from tests.engines.test_ray import workers
from tests.helpers.cli import TINY
from tests.helpers.process import spawn

# Before Flower is loaded: no test reports anything.
os.environ |= module.SETTINGS

needs_flower = pytest.mark.skipif(
    find_spec("flwr") is None or find_spec("ray") is None,
    reason="Flower or its Ray is not installed; pip install 'dua_lightning[federation,ray]'",
)


@pytest.mark.parametrize("missing", ["flwr", "ray"])
def test_without_its_packages_there_is_one_line(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == missing else "found")
    with pytest.raises(InputError, match=r"pip install 'dua_lightning\[federation,ray\]'"):
        Flower()


def test_settings_that_cannot_be_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda _: "found")
    for name, value in (("retries", -1), ("workers", 0), ("threads", 0)):
        with pytest.raises(InputError, match=f"{name}={value}"):
            Flower(**{name: value})


@pytest.mark.slow
@needs_flower
def test_results_survive_killed_workers_and_shared_tensors_do_not_change(tmp_path: Path) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with Flower(workers=2, threads=1) as engine:
        toys.shared(engine, tmp_path / "store")
        wishes = [("sum", value) for value in range(40)]
        wishes[5:5] = [("die once", str(tmp_path / "died"))]
        found = toys.results(engine, toys.work(tmp_path / "store"), wishes, ("a",))
        assert (tmp_path / "died").exists()
        expected = [float(torch.arange(1000.0).sum()) + 3 + value for value in range(40)]
        assert found == [*expected[:5], "die once", *expected[5:]]
        assert toys.results(engine, toys.work(tmp_path / "store"), [("threads", 0)]) == [1]
        with pytest.raises(InputError, match=r"^value=7 cannot be used; give another$"):
            toys.results(engine, toys.work(tmp_path / "store"), [("refuse", 7)])
        with pytest.raises(RuntimeError, match="x of a was written to"):
            toys.results(engine, toys.work(tmp_path / "store"), [("write", 0)], ("a",))
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


@pytest.mark.slow
@needs_flower
def test_a_worker_that_is_killed_again_and_again_is_one_line(tmp_path: Path) -> None:
    with Flower(workers=1, retries=1) as engine, pytest.raises(InputError, match="engine flower was killed"):
        toys.results(engine, toys.work(tmp_path), [("die", 0)])


@pytest.mark.slow
@needs_flower
def test_an_exception_ends_workers_at_once(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        interrupted(tmp_path)
    assert time.monotonic() - began < 60
    assert not workers(os.getpid(), "ClientAppActor")


def interrupted(folder: Path) -> None:
    with Flower(workers=1) as engine:
        engine.submit(toys.work(folder), 0, ("sleep", 600), ())
        while not list(folder.iterdir()):
            time.sleep(0.05)
        raise KeyboardInterrupt


@pytest.mark.slow
@needs_flower
def test_a_run_gives_the_bits_of_one_process_though_a_worker_is_killed(tmp_path: Path) -> None:
    arguments = (*TINY, "method=all", "threads=1", "data.iterations=40", "logger=none")

    def places(name: str) -> list[str]:
        return [f"paths.output_dir={tmp_path / name}", f"paths.store_dir={tmp_path / name / 'store'}"]

    assert spawn(*arguments, *places("serial"), cwd=tmp_path).status == 0
    command = [sys.executable, "-m", "dua_lightning", *arguments, "engine=flower", "engine.workers=2"]
    process = subprocess.Popen(
        [*command, *places("flower")], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not (found := workers(process.pid, "ClientAppActor.run")) and process.poll() is None:
        time.sleep(0.1)
    assert found, process.communicate()
    os.kill(found[0], signal.SIGKILL)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    a, b = (tmp_path / name / "records.csv" for name in ("serial", "flower"))
    assert a.read_bytes() == b.read_bytes()
    assert a.read_text().count("\n") == 40 * 3 * (9 * 3 + 2) + 1
