"""A real server and real devices on the loopback address, with what goes wrong there."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from dua_lightning.federation.address import free_port
from dua_lightning.federation.keys import new_device
from tests.federation.test_parts import ADAPTED, same_model
from tests.helpers.process import ROOT
from tests.personal import runs

pytest.importorskip("flwr")
pytestmark = pytest.mark.devices

NAMES = ("ann", "bob", "carl", "dora")
"""ann is killed and comes again, bob is honest, carl sends poisoned priors, and nobody knows dora's key."""

POISONED = """
import sys
from safetensors import safe_open
from dua_lightning.federation import device
from dua_lightning.__main__ import main

def poisoned(path, prior, *rest, **more):
    return save(path, {name: omega * 1e6 for name, omega in prior.items()}, *rest, **more)

save, device.save_prior = device.save_prior, poisoned
main()
"""
"""The program of a device that lies about its priors."""

SLOW = """
import time
from dua_lightning import user
from dua_lightning.__main__ import main

def slow(*given):
    print("measuring slowly", flush=True)
    time.sleep(600)

user.measure = slow
main()
"""
"""The program of a device that is in the middle of its measurement for long."""


class Program:
    """`dua ARGUMENTS` in a process of its own, whose lines go to a file."""

    def __init__(self, words: Path, *arguments: str, code: str | None = None) -> None:
        self.words = words
        start = ["-m", "dua_lightning"] if code is None else ["-c", code]
        path = os.pathsep.join([str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
        with words.open("ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, *start, *arguments],
                env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
                stdout=file,
                stderr=file,
            )

    @property
    def said(self) -> str:
        return self.words.read_text(encoding="utf-8")

    def wait_for(self, line: str, seconds: float = 90) -> None:
        """Wait until it has said something; raises `AssertionError` if it ends before."""
        end = time.monotonic() + seconds
        while line not in self.said:
            assert self.process.poll() is None, self.said
            assert time.monotonic() < end, f"{line!r} has not come:\n{self.said}"
            time.sleep(0.1)

    def ends(self, seconds: float = 90) -> int:
        return self.process.wait(seconds)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, and the keys of four devices, of whom the server knows three."""
    folder = tmp_path_factory.mktemp("devices")
    pictures = runs.pictures(folder / "pictures")
    for name in ("carl", "dora"):
        for path in (path for path in pictures if "ann" in path.parts):
            copy = folder / "pictures" / "users" / name / path.relative_to(folder / "pictures" / "users" / "ann")
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    network = ("model=vgg11_bn", "model.weights=embedded", "model.width=0.125", "model.pooled=1")
    runs.run(folder, "method=racl", "importance=mas", "adapt=adabn", *network)
    (folder / "server" / "devices").mkdir(parents=True)
    for name in NAMES:
        card = new_device(folder / name, name)
        if name != "dora":
            (folder / "server" / "devices" / card.name).write_bytes(card.read_bytes())
    return folder


@pytest.fixture
def running() -> Iterator[list[Program]]:
    """The programs of a test, which end with it."""
    programs: list[Program] = []
    yield programs
    for program in programs:
        with suppress(ProcessLookupError):
            program.process.send_signal(signal.SIGTERM)
    for program in programs:
        try:
            program.process.wait(20)
        except subprocess.TimeoutExpired:
            program.process.kill()


def served(folder: Path, running: list[Program], port: int, *arguments: str, state: str = "server") -> Program:
    words = folder / f"{state}-{len(running)}.txt"
    own = ("--state", str(folder / state), "--port", str(port))
    running.append(Program(words, "serve", str(folder / "run"), *own, *arguments))
    return running[-1]


def device(
    folder: Path, running: list[Program], port: int, name: str, code: str | None = None, state: str = "server"
) -> Program:
    words = folder / f"{name}-{state}-{len(running)}.txt"
    given = ("--images", str(folder / "pictures" / "users" / name), "--state", str(folder / name))
    server = ("--server", f"127.0.0.1:{port}", "--ca", str(folder / state / "ca.crt"))
    exchange = ("--exchange", str(folder / "exchange"), "--above", "0.01")
    running.append(Program(words, "device", *given, *server, *exchange, code=code))
    return running[-1]


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("error: ")]


def test_devices_get_the_models_of_the_simulation_whatever_others_do(folder: Path, running: list[Program]) -> None:
    """Priors go through the exchange folder, as files above a size do."""
    port = free_port()
    exchange = ("--exchange", str(folder / "exchange"), "--above", "0.01")
    server = served(folder, running, port, *exchange, "--until", "2")
    server.wait_for("ready")
    killed = device(folder, running, port, "ann", SLOW)
    carl = device(folder, running, port, "carl", POISONED)
    dora = device(folder, running, port, "dora")
    killed.wait_for("measuring slowly")
    killed.process.send_signal(signal.SIGKILL)
    assert carl.ends() == 2
    (line,) = lines(carl.said)
    assert "the server has refused the priors" in line
    assert "the server takes at most" in line
    assert dora.ends() == 2
    (line,) = lines(dora.said)
    assert "does not know the key of this device" in line
    bob, ann = (device(folder, running, port, name) for name in ("bob", "ann"))
    assert [bob.ends(), ann.ends()] == [0, 0], (bob.said, ann.said, server.said)
    assert server.ends() == 0
    assert "carl: " in server.said
    assert lines(server.said) == []
    for name in ("ann", "bob"):
        same_model(folder, folder / name / "model" / name, ADAPTED, name)
    assert any((folder / "exchange").iterdir())


def test_a_server_that_was_killed_goes_on_and_merges_nobody_twice(folder: Path, running: list[Program]) -> None:
    port = free_port()
    exchange = ("--exchange", str(folder / "exchange"), "--until", "1")
    first = served(folder, running, port, *exchange, state="again")
    first.wait_for("ready")
    # A card may come while the server runs.
    (folder / "again" / "devices" / "bob.json").write_bytes((folder / "bob" / "bob.json").read_bytes())
    first.wait_for("bob: the card is known")
    bob = device(folder, running, port, "bob", state="again")
    first.wait_for("bob: merged")
    first.process.send_signal(signal.SIGKILL)
    first.process.wait(20)
    second = served(folder, running, port, *exchange, state="again")
    assert bob.ends() == 0, (bob.said, second.said)
    assert second.ends() == 0
    assert "merged" not in second.said
    same_model(folder, folder / "bob" / "model" / "bob", ADAPTED, "bob")
