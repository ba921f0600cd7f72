"""A sweep on a real SLURM: jobs that are killed, requeued and out of time go on, and the table is that of a serial run.

`make test-cluster` installs what it needs where it may.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from tests.helpers.cli import TINY

SCRIPT = Path(__file__).with_name("slurm.sh")
# Some ten seconds of training for each of two tasks, with a checkpoint after every epoch.
LONG = ("trainer.max_epochs=400", "callbacks=none", "threads=1", "logger=none")
SEEDS = (1, 2, 3)
ARRAY = 1  # the first job of a cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a user of a cluster of one node."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="hydra-submitit-launcher is not installed")
    if os.geteuid() != 0:
        pytest.skip("only root can start a cluster")
    if missing := [name for name in ("slurmctld", "slurmd", "sbatch", "munged") if shutil.which(name) is None]:
        pytest.skip(f"{', '.join(missing)} not installed")
    folder = tmp_path_factory.mktemp("slurm")
    try:
        subprocess.run([SCRIPT, "up", folder], check=True, timeout=60)
        yield os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
    finally:
        subprocess.run([SCRIPT, "down", folder], check=False, timeout=60)


def sweep(folder: Path, *arguments: str) -> list[str]:
    """The sweep that writes to `folder`; every seed has a store of its own, so that each job trains."""
    places = (f"paths.output_dir={folder}", f"paths.store_dir={folder}-store-${{seed}}")
    seeds = f"seed={','.join(map(str, SEEDS))}"
    return [sys.executable, "-m", "dua_lightning", "-m", *TINY, *LONG, *places, seeds, *arguments]


def process(task: int) -> int | None:
    """The process of ours that runs the array's job `task`."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0")
            environment = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        # srun has ours among its arguments.
        if b"submitit.core._submit" in command[:5] and f"SLURM_ARRAY_TASK_ID={task}".encode() in environment:
            return int(entry.name)
    return None


def disturbance(task: int) -> list[str]:
    """A command that disturbs the job `task` of the cluster's first array, each in another way."""
    return [
        ["kill", "-KILL", str(process(task))],  # as for a want of memory
        ["scontrol", "requeue", f"{ARRAY}_{task}"],  # as for a job of more importance
        ["scancel", "--signal=USR2", f"{ARRAY}_{task}"],  # as before the end of its time
    ][task]


@pytest.mark.slow
def test_jobs_that_are_disturbed_go_on_and_the_table_is_the_serial_one(cluster: dict[str, str], tmp_path: Path) -> None:
    on_slurm = ("hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=null")
    launcher = subprocess.Popen(
        sweep(tmp_path / "slurm", *on_slurm), env=cluster, cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    try:
        disturbed: set[int] = set()
        deadline = time.monotonic() + 300
        while launcher.poll() is None and time.monotonic() < deadline:
            for task, seed in enumerate(SEEDS):
                begun = list((tmp_path / f"slurm-store-{seed}").glob("experts/.*.partial/last.ckpt"))
                if task not in disturbed and begun:
                    subprocess.run(disturbance(task), env=cluster, check=True)
                    disturbed.add(task)
            time.sleep(0.05)
        out, _ = launcher.communicate(timeout=5)
    finally:
        launcher.kill()
    assert launcher.returncode == 0, out
    assert disturbed == {0, 1, 2}
    for task in disturbed:
        (log,) = (tmp_path / "slurm" / ".submitit").glob(f"*_{task}/*_log.out")
        text = log.read_text()
        assert text.count("Starting with JobEnvironment") == 2, text
        assert "continues at epoch" in text

    subprocess.run(sweep(tmp_path / "serial"), cwd=tmp_path, check=True, capture_output=True)
    serial, on_cluster = (pd.read_csv(tmp_path / name / "records.csv") for name in ("serial", "slurm"))
    assert set(serial["seed"]) == set(SEEDS)
    pd.testing.assert_frame_equal(on_cluster, serial, check_exact=True)
    assert "sweep of 3 jobs" in out


@pytest.mark.slow
def test_a_job_that_fails_is_named_at_the_end(cluster: dict[str, str], tmp_path: Path) -> None:
    on_slurm = ("hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=null")
    done = subprocess.run(
        [sys.executable, "-m", "dua_lightning", "-m", *TINY, "adapt=none,adabn", *on_slurm],
        env=cluster,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "job 1 failed" in line
    assert "BatchNorm" in line
    assert "sweep of 1 jobs" in done.stdout
