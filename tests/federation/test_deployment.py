"""Every command of the page on deployment, in its order, with a real server and a real device."""

import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import torch

from dua_lightning.personal import load, personal_models
from tests.helpers.pages import blocks, lines

pytestmark = pytest.mark.devices

PAGE = "docs/deployment.md"
ADDRESS = "127.0.0.1:9092"
SMALL = (
    *("model.weights=none", "trainer.max_epochs=1", "data.input_size=32", "data.images.size=40"),
    *("logger=none", "engine=serial", "threads=1"),
)
"""Settings that no page needs: without a download, and in a minute."""
PATIENCE = 300.0
"""Seconds after which a command of the page hangs."""


class Machine:
    """A folder in which the page's commands are run, and the servers that go on beside them."""

    def __init__(self, folder: Path, ending: ExitStack) -> None:
        self.folder = folder
        self.ending = ending
        self.environment = {
            **os.environ,
            "DUA_STORE_DIR": str(folder / "store"),
            "DUA_DATA_DIR": str(folder / "data"),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "100",
        }
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.server: subprocess.Popen[str] | None = None

    def run(self, line: str) -> str:
        """Run a command to its end; a server goes on until the device beside it has its model."""
        program, *words = shlex.split(line)
        if program == "dua":
            words = [word.replace(ADDRESS, f"127.0.0.1:{self.port}") for word in words]
            command = [sys.executable, "-m", "dua_lightning", *words]
            if words[0] == "serve":
                return self.serve([*command, "--port", str(self.port)], line)
            command += SMALL if words[0].startswith("+experiment") else ()
        else:
            command = [str(shutil.which(program)), *words]
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        if words[:2] == ["device", "--server"]:
            assert self.server is not None
            said, _ = self.server.communicate(timeout=PATIENCE)
            assert self.server.returncode == 0, said
        return done.stdout

    def serve(self, command: Sequence[str], line: str) -> str:
        self.server = self.ending.enter_context(ended(command, self.folder, self.environment))
        assert self.server.stdout is not None
        said = self.server.stdout.readline()
        assert said.startswith("serving "), f"{line}\n{said}{self.server.communicate()[0]}"
        return said


@contextmanager
def ended(command: Sequence[str], folder: Path, environment: dict[str, str]) -> Iterator["subprocess.Popen[str]"]:
    """A process that is ended with the test."""
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield process
    finally:
        process.terminate()
        until = time.monotonic() + 20
        while process.poll() is None and time.monotonic() < until:
            time.sleep(0.1)
        process.kill()
        process.communicate()


def test_the_page_takes_a_run_to_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("flwr", "onnx", "onnxscript"):
        pytest.importorskip(package)
    commands = [line for block in blocks(PAGE, "bash") for line in lines(block)]
    assert 10 <= len(commands) <= 20
    with ExitStack() as ending:
        machine = Machine(tmp_path, ending)
        said, models = [], []
        for line in commands:
            said.append(machine.run(line))
            if "device --server" in line:
                models.append(load(tmp_path / "ann/model/ann"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DUA_STORE_DIR", machine.environment["DUA_STORE_DIR"])
    (expected,) = personal_models(tmp_path / "run", "ann")
    pictures = torch.randn(8, *expected.shape, generator=torch.Generator().manual_seed(1))
    # On the server, and on the device.
    assert len(models) == 2
    for model in models:
        # Sums round otherwise where the same numbers lie at another place in memory.
        torch.testing.assert_close(dict(model.states), dict(expected.states), rtol=1e-3, atol=1e-3)
        seen = {task.name: model.probabilities(task.name, pictures) for task in model.tasks}
        torch.testing.assert_close(
            seen, {name: expected.probabilities(name, pictures) for name in seen}, atol=1e-4, rtol=0
        )
    cards = " ".join(" ".join(said[-3:]).split())
    assert "Each user sends" in cards
    assert "Nothing that is computed from a user's pictures is sent" in cards
