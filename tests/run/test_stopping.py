"""Signals: the status, the line and the promptness of a stop, in small processes and in real runs."""

import copy
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from lightning import Callback, LightningModule, Trainer

from dua_lightning.report.records import read
from dua_lightning.run.folders import LOCK
from dua_lightning.run.stopping import Stopped
from dua_lightning.store.store import Store
from tests.helpers.cli import TINY, Done
from tests.helpers.process import Running, spawn, start

SIGNALS = (signal.SIGINT, signal.SIGTERM)
FOREVER = ("trainer.max_epochs=1000000", "callbacks=none")


def fresh(*command: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *command], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def child(code: str, tmp_path: Path, *arguments: str) -> subprocess.Popen[str]:
    """A process that runs `code`, as soon as it has said that it is ready."""
    imports = "import time\nfrom dua_lightning.run import stopping\nfrom dua_lightning.run.stopping import *\n"
    process = fresh("-c", imports + code, *arguments, cwd=tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


BUSY = "with stoppable():\n    print('ready', flush=True)\n    time.sleep(60)"


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_the_block_with_one_line_and_its_status(number: signal.Signals, tmp_path: Path) -> None:
    process = child(BUSY, tmp_path, "seed=[1,2]", "method=racl")
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert err.strip() == "stopped; to continue: dua 'seed=[1,2]' method=racl"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["seed=2"], "seed=2 paths.output_dir=out"),
        (["-m", "seed=2,3"], "-m seed=2,3 paths.output_dir=out"),
        (["seed=2,3", "-m"], "seed=2,3 paths.output_dir=out -m"),
        ([], "paths.output_dir=out"),
        (["paths.output_dir=${now:%S}", "seed=2"], "seed=2 paths.output_dir=out"),
    ],
)
def test_the_same_command_continues_in_the_folder_of_the_run(given: list[str], said: str, tmp_path: Path) -> None:
    process = child(BUSY.replace("print", "continue_in('paths.output_dir=out'); print"), tmp_path, *given)
    process.terminate()
    _, err = process.communicate(timeout=20)
    assert err.strip().endswith(f"dua {said}")


def test_a_second_signal_ends_the_process_at_once(tmp_path: Path) -> None:
    code = (
        "with stoppable():\n  try:\n    print('ready', flush=True)\n    time.sleep(60)\n"
        "  finally:\n    print('closing', flush=True)\n    time.sleep(60)"
    )
    process = child(code, tmp_path)
    process.terminate()
    assert process.stdout is not None
    assert process.stdout.readline() == "closing\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, "")


def test_a_stop_that_is_swallowed_still_ends_the_process(tmp_path: Path) -> None:
    code = (
        "stopping.PATIENCE = 0.3\nwith stoppable():\n  print('ready', flush=True)\n"
        "  try:\n    time.sleep(60)\n  except BaseException:\n    time.sleep(60)"
    )
    process = child(code, tmp_path)
    process.terminate()
    _, err = process.communicate(timeout=20)
    assert process.returncode == 143
    assert len(err.splitlines()) == 2
    assert "to continue" in err


def test_a_signal_after_the_end_of_the_work_has_no_traceback(tmp_path: Path) -> None:
    process = child("with stoppable():\n    pass\nprint('ready', flush=True)\ntime.sleep(60)", tmp_path)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, "")


def wait_for(found: Callable[[], bool], ended: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not found():
        assert not ended(), "it has ended"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def loads_torch(process: subprocess.Popen[str]) -> Callable[[], bool]:
    maps = Path(f"/proc/{process.pid}/maps")
    return lambda: "libtorch" in maps.read_text()


def stopped(running: Running, number: signal.Signals, folder: Path) -> None:
    """Stop it, and see that it ends soon and says how to continue."""
    began = time.monotonic()
    running.send(number)
    ends(running.wait(60), number, folder)
    assert time.monotonic() - began < 20


def ends(done: Done, number: signal.Signals, folder: Path) -> None:
    assert done.status == 128 + number, done.err
    (line,) = done.err.strip().splitlines()
    assert line.startswith("stopped; to continue: dua ")
    assert f"paths.output_dir={folder}" in line


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="sees imports through /proc")
@pytest.mark.parametrize("number", SIGNALS)
def test_a_run_stops_while_it_is_imported(number: signal.Signals, tmp_path: Path) -> None:
    process = fresh("-m", "dua_lightning", *TINY, f"paths.output_dir={tmp_path / 'out'}", cwd=tmp_path)
    wait_for(loads_torch(process), lambda: process.poll() is not None)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    ends(Done(process.returncode, "", err), number, tmp_path / "out")


def test_a_run_stops_in_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, store = tmp_path / "out", tmp_path / "store"
    monkeypatch.setenv("DUA_STORE_DIR", str(store))
    running = start(*TINY, *FOREVER, f"paths.output_dir={out}", cwd=tmp_path)
    wait_for(lambda: any(store.glob("experts/.*.partial/last.ckpt")), lambda: running.ended)
    stopped(running, signal.SIGTERM, out)
    assert list((out / "csv").glob("**/0-1/metrics.csv")), "the logger was not closed"
    (folder,) = store.glob("experts/.*.partial")
    assert sorted(path.name for path in folder.iterdir()) == ["best.ckpt", "last.ckpt"]


class Lost(Callback):
    """Lets SIGTERM arrive while Python closes a file that nobody holds any more: it drops what is raised there."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _Forgotten()


class _Forgotten(io.IOBase):
    def close(self) -> None:
        signal.raise_signal(signal.SIGTERM)


def test_a_run_stops_in_training_where_the_exception_of_the_signal_is_lost(tmp_path: Path) -> None:
    out = tmp_path / "out"
    lost = f"+callbacks.lost._target_={__name__}.Lost"
    ends(spawn(*TINY, *FOREVER, lost, f"paths.output_dir={out}", cwd=tmp_path), signal.SIGTERM, out)


def test_a_stop_comes_from_another_process_as_it_was() -> None:
    assert copy.copy(Stopped(signal.SIGTERM)).status == 143


def test_a_run_stops_between_its_users(tmp_path: Path) -> None:
    out, times = tmp_path / "out", "data.iterations=1000000"
    running = start(*TINY, times, f"paths.output_dir={out}", cwd=tmp_path)
    results = Path(os.environ["DUA_STORE_DIR"]) / "results"
    wait_for(lambda: len([*results.glob("[!.]*")]) > 2, lambda: running.ended)
    stopped(running, signal.SIGINT, out)
    assert [problem for _, problem in Store(results.parent).verify() if problem] == []
    assert len(read(out / "records.csv")) > 2
    assert [path.name for path in out.iterdir() if path.name.startswith(".") and path.is_file()] == [LOCK]


@pytest.mark.slow
def test_a_stop_ends_the_workers_as_well(tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("engine=loky", "engine.workers=2", "data.iterations=1000000", f"paths.output_dir={out}")
    running = start(*TINY, *arguments, cwd=tmp_path)
    results = Path(os.environ["DUA_STORE_DIR"]) / "results"
    wait_for(lambda: len([*results.glob("[!.]*")]) > 2, lambda: running.ended)
    listed = subprocess.run(["ps", "--ppid", str(running.pid), "-o", "pid="], capture_output=True, text=True).stdout
    assert len(listed.split()) >= 2
    stopped(running, signal.SIGTERM, out)
    assert len(read(out / "records.csv")) > 2
    deadline = time.monotonic() + 10
    while left := [pid for pid in listed.split() if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def test_help_ends_quietly_when_nobody_reads_it(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "dua_lightning", "--help"], cwd=tmp_path, stdout=writing, stderr=subprocess.PIPE
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")
