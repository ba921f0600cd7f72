"""Sweeps in several processes: the serial table, failures that are told, and a worker that is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from dua_lightning.report.records import read
from tests.helpers.cli import TINY
from tests.helpers.process import spawn

pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="hydra-joblib-launcher is not installed")


def sweep(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """The sweep as the command `dua` starts it: its workers import the program's main module."""
    main = "from dua_lightning.__main__ import main; main()"
    places = (f"paths.output_dir={folder}", f"paths.store_dir={folder}-store", "logger=none")
    command = [sys.executable, "-c", main, "-m", *TINY, *places, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_the_table_is_the_serial_one_and_a_failing_job_is_named(tmp_path: Path) -> None:
    jobs = ("seed=1,2", "adapt=none,adabn")
    with sweep(tmp_path / "parallel", *jobs, "hydra/launcher=processes") as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "sweep of 2 jobs" in out
    first, second = err.splitlines()
    assert first.startswith("error: job 1 failed: ")
    assert second.startswith("error: job 3 failed: ")
    assert "BatchNorm" in first
    places = (f"paths.output_dir={tmp_path / 'serial'}", "paths.store_dir=store", "logger=none")
    assert spawn("-m", *TINY, *jobs, *places, cwd=tmp_path).status == 2
    parallel, serial = (read(tmp_path / name / "records.csv") for name in ("parallel", "serial"))
    pd.testing.assert_frame_equal(parallel, serial, check_exact=True)


@pytest.mark.slow
def test_a_worker_that_is_killed_ends_the_sweep_in_one_line(tmp_path: Path) -> None:
    forever = ("trainer.max_epochs=1000000", "callbacks=none")
    with sweep(tmp_path / "out", "seed=1,2", *forever, "hydra/launcher=processes") as process:
        deadline = time.monotonic() + 60
        while not list((tmp_path / "out-store").glob("experts/.*.partial/last.ckpt")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(workers(process.pid)[0], signal.SIGKILL)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: a job of the sweep has died (")
    assert "; to continue: dua -m " in line


def workers(parent: int) -> list[int]:
    """joblib's workers among the children of a process."""
    tasks = Path(f"/proc/{parent}/task").glob("*/children")
    children = [int(number) for task in tasks for number in task.read_text().split()]
    return [child for child in children if b"popen_loky" in Path(f"/proc/{child}/cmdline").read_bytes()]
