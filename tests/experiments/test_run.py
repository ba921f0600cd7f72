"""Both studies of `make run`: what is shown in which order, what it ends with, and that nothing is left running."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.experiments.test_scenes import EXPERIMENTS

PROGRAM = """#!/bin/sh
case "$3" in
    *digits) trap '' TERM; echo "digits $4"; sleep {digits}; echo digits end; exit {status} ;;
    *photos) trap 'echo stopped >"{stopped}"; exit 143' TERM; echo "photos $4"
        sleep {photos} & wait $!; echo photos end; exit {photos_status} ;;
esac
"""
"""In the place of Python: it takes some time for either study, and ends with a status."""


def begun(folder: Path, **how: float) -> subprocess.Popen[str]:
    """The script with the program in the place of Python, and one argument."""
    program = folder / "python"
    how = {"digits": 0, "photos": 0, "status": 0, "photos_status": 0} | how
    program.write_text(PROGRAM.format(stopped=folder / "stopped", **how))
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "TMPDIR": str(folder)}
    command = ["sh", str(EXPERIMENTS / "run.sh"), "seed=1"]
    # An own group, as a terminal gives it, so that a signal reaches all of it.
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)


@pytest.mark.parametrize(("digits", "photos"), [(0, 1), (1, 0)])
def test_the_photographs_come_after_the_digits_whichever_ends_first(tmp_path: Path, digits: int, photos: int) -> None:
    began = time.monotonic()
    output, _ = (running := begun(tmp_path, digits=digits, photos=photos)).communicate(timeout=60)
    assert output.splitlines()[1:] == ["digits seed=1", "digits end", "photos seed=1", "photos end"]
    assert running.returncode == 0
    assert not (tmp_path / "stopped").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["python"], "the lines were in a temporary file"
    assert time.monotonic() - began < 30


def test_it_ends_with_the_status_of_the_photographs(tmp_path: Path) -> None:
    running = begun(tmp_path, photos_status=2)
    output, _ = running.communicate(timeout=60)
    assert output.endswith("photos end\n")
    assert running.returncode == 2


def test_digits_that_fail_stop_the_photographs(tmp_path: Path) -> None:
    running = begun(tmp_path, digits=1, photos=60, status=2)
    output, _ = running.communicate(timeout=60)
    assert "photos" not in output.partition("\n")[2]
    assert running.returncode == 2
    assert (tmp_path / "stopped").exists()


def test_a_signal_stops_both(tmp_path: Path) -> None:
    running = begun(tmp_path, digits=1, photos=60)
    assert running.stdout is not None
    assert [running.stdout.readline() for _ in range(2)][1] == "digits seed=1\n"
    running.send_signal(signal.SIGTERM)
    running.communicate(timeout=60)
    assert running.returncode == 143
    assert (tmp_path / "stopped").exists()
