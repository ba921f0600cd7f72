"""Ray: the same bits, also where workers are killed. Without Ray there is one line."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from dua_lightning.engines import Ray
from dua_lightning.engines import ray as module
from dua_lightning.errors import InputError
from dua_lightning.report.records import read
from tests.engines import toys
from tests.helpers.cli import TINY
from tests.helpers.process import spawn

# Before Ray is loaded: no test listens where others than this machine reach it.
os.environ |= module.SETTINGS

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed; pip install 'ray>=2.55,<3'")


def test_without_ray_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"pip install 'dua_lightning\[ray\]'"):
        Ray()


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda _: "found")


@pytest.mark.usefixtures("installed")
def test_settings_that_cannot_be_are_refused_by_name() -> None:
    for settings, named in (
        ({"retries": -1}, "retries=-1"),
        ({"workers": 0}, "workers=0"),
        ({"workers": 2, "address": "auto"}, "workers=2"),
    ):
        with pytest.raises(InputError, match=named):
            Ray(**settings)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("address", ["nowhere", "127.0.0.1:x", "127.0.0.1:99999"])
def test_a_cluster_that_does_not_answer_is_one_line(address: str) -> None:
    with pytest.raises(InputError, match=f"address={address} is no running Ray cluster"):
        Ray(address=address).__enter__()


@pytest.fixture
def closed() -> str:
    """An address at which nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.mark.usefixtures("installed")
def test_a_closed_port_is_noticed_at_once(closed: str) -> None:
    began = time.monotonic()
    with pytest.raises(InputError, match=closed):
        Ray(address=closed).__enter__()
    assert time.monotonic() - began < 10


@needs_ray
@pytest.mark.parametrize("said", ["by the environment", "by a cluster that is gone"])
def test_auto_without_a_cluster_is_one_line_at_once(
    said: str, closed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    if said == "by the environment":
        monkeypatch.setenv("RAY_ADDRESS", closed)
    else:
        (tmp_path / "ray").mkdir()
        (tmp_path / "ray" / "ray_current_cluster").write_text(closed)
    began = time.monotonic()
    with pytest.raises(InputError, match=f"address=auto, which is {closed}, is no running Ray cluster"):
        Ray(address="auto").__enter__()
    assert time.monotonic() - began < 10


@needs_ray
def test_what_answers_and_lets_nobody_in_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise ConnectionError("Failed to connect")

    monkeypatch.setattr("ray.init", refuse)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with Ray(address=address) as engine, pytest.raises(InputError, match=f"{address} answers .*RAY_AUTH_MODE"):
            engine.share("a", Path(), {})


@pytest.mark.slow
@needs_ray
def test_results_survive_killed_workers_and_shared_tensors_do_not_change(tmp_path: Path) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with Ray(workers=2, threads=1) as engine:
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
@needs_ray
def test_a_worker_that_is_killed_again_and_again_is_one_line(tmp_path: Path) -> None:
    with Ray(workers=1, retries=1) as engine, pytest.raises(InputError, match="engine ray was killed"):
        toys.results(engine, toys.work(tmp_path), [("die", 0)])


def workers(of: int, what: str = "_compute") -> list[int]:
    """Ray's workers among the descendants of a process that are computing `what`."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()[1:]]
    family = {of}
    while more := {int(pid) for pid, parent, *_ in rows if int(parent) in family} - family:
        family |= more
    return [int(pid) for pid, _, *args in rows if int(pid) in family and args and f"ray::{what}" in args[0]]


@pytest.mark.slow
@needs_ray
def test_a_run_gives_the_bits_of_one_process_though_a_worker_is_killed(tmp_path: Path) -> None:
    arguments = (*TINY, "method=all", "threads=1", "data.iterations=40", "logger=none")

    def places(name: str) -> list[str]:
        return [f"paths.output_dir={tmp_path / name}", f"paths.store_dir={tmp_path / name / 'store'}"]

    assert spawn(*arguments, *places("serial"), cwd=tmp_path).status == 0
    command = [sys.executable, "-m", "dua_lightning", *arguments, "engine=ray", "engine.workers=2", *places("ray")]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (found := workers(process.pid)) and process.poll() is None:
        time.sleep(0.1)
    assert found, process.communicate()
    os.kill(found[0], signal.SIGKILL)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    a, b = (tmp_path / name / "records.csv" for name in ("serial", "ray"))
    assert a.read_bytes() == b.read_bytes()
    assert len(read(a)) == 40 * 3 * (9 * 3 + 2)


@pytest.mark.slow
@needs_ray
def test_a_run_attaches_to_a_running_cluster(tmp_path: Path) -> None:
    code = (
        "import ray, sys\n"
        "from ray.cluster_utils import Cluster\n"
        "cluster = Cluster(initialize_head=True, head_node_args={'num_cpus': 1, 'node_ip_address': '127.0.0.1'})\n"
        "cluster.add_node(num_cpus=1, node_ip_address='127.0.0.1')\n"
        "print(cluster.address, flush=True)\n"
        "sys.stdin.read()\n"
        "cluster.shutdown()\n"
    )
    cluster = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert cluster.stdin is not None
    assert cluster.stdout is not None
    try:
        address = cluster.stdout.readline().strip()
        given = (*TINY, "threads=1", "logger=none", f"paths.output_dir={tmp_path}")
        done = spawn(*given, "engine=ray", f"engine.address={address}", cwd=tmp_path)
        assert done.status == 0, done.err
        assert len(read(tmp_path / "records.csv")) == 3 * 3
    finally:
        cluster.stdin.close()
        cluster.wait(timeout=60)


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a cluster of two cores, which `auto` finds before others that may be on this machine."""
    # Ray listens at sockets below it, whose names must be short.
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        monkeypatch.setenv("RAY_TMPDIR", folder)
        # Whether a machine has a token or not.
        monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
        options = ("--port=0", "--num-cpus=2", "--include-dashboard=false")
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", *options]
        found, log = Path(folder) / "ray" / "ray_current_cluster", Path(folder) / "log"
        with log.open("w") as file:
            cluster = subprocess.Popen(command, stdout=file, stderr=file)
        try:
            while not (found.exists() and found.read_text()):
                assert cluster.poll() is None, log.read_text()
                time.sleep(0.1)
            yield found.read_text()
        finally:
            cluster.terminate()
            cluster.wait(timeout=60)


@pytest.mark.slow
@needs_ray
@pytest.mark.usefixtures("head")
def test_auto_attaches_to_the_cluster_that_was_started_here(tmp_path: Path) -> None:
    with Ray(address="auto") as engine:
        toys.shared(engine, tmp_path / "store")
        assert engine.room == 4
        expected = [float(torch.arange(1000.0).sum()) + 3 + value for value in range(10)]
        wishes = [("sum", value) for value in range(10)]
        assert toys.results(engine, toys.work(tmp_path / "store"), wishes, ("a",)) == expected


@pytest.mark.slow
@needs_ray
def test_more_threads_than_a_machine_has_are_refused_by_name(head: str, tmp_path: Path) -> None:
    with Ray(address=head, threads=3) as engine, pytest.raises(InputError, match=r"threads=3 .* cores \(2\)"):
        toys.shared(engine, tmp_path / "store")


@pytest.mark.slow
@needs_ray
def test_a_population_on_the_cluster_of_the_environment_gives_the_bits_of_one_process(
    head: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", head)
    small = ("+experiment=population", "data.users=6", "model.width=8", "trainer.max_epochs=1", "threads=1")
    for name, engine in (("serial", ["engine=serial"]), ("ray", ["engine=ray", "engine.address=auto"])):
        folders = [f"paths.output_dir={tmp_path / name}", f"paths.store_dir={tmp_path / name / 'store'}"]
        done = spawn(*small, *engine, "logger=none", *folders, cwd=tmp_path)
        assert done.status == 0, done.err
    a, b = (tmp_path / name / "records.csv" for name in ("serial", "ray"))
    assert a.read_bytes() == b.read_bytes()
    assert read(a)["user"].nunique() == 6
