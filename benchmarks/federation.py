"""Many devices against one `dua serve` on this machine, which is killed in the middle. `make bench-devices`.

    python benchmarks/federation.py [--devices 1000] [--seconds 3600] [--processes 2] [--rate 20] [--out DIR]

The server is the real one, on a run that is made for it. The devices are threads of a few processes. Each has its own
keys and goes by the connection of `dua device`, over TLS, with all its requests; psi and phi alone are left out: it
sends random priors of its own, signed, and keeps the model that comes. When half of the devices have their models, the
server and all that it has started are killed by SIGKILL, and the same command is given again.

It fails where a device ends without its model, where a model is not the one that the server keeps, or where a user was
merged twice. Writes `federation.csv`, a line for each kind of request, and `federation.json`.
"""

import argparse
import json
import logging
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from dua_lightning.store.files import write_text

# Before Flower is loaded.
os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "OMP_NUM_THREADS": "1"}

TASKS = {"kitchen": ("pots", "stove"), "garden": ("grass", "tulip")}
DUA = (sys.executable, "-m", "dua_lightning")
READY = 300.0
"""Seconds that a server may take to start."""
RESTS = 2.0
"""Seconds after which a device whose connection has ended starts again."""


def make_run(folder: Path, width: int) -> Path:
    """A run on pictures of noise: a perceptron, MAS-RACL."""
    rng = np.random.default_rng(0)
    for side, count in (("server", 5), ("users/ann", 3)):
        for task, categories in TASKS.items():
            for category in categories:
                place = folder / "pictures" / side / task / category
                place.mkdir(parents=True)
                for number in range(count):
                    Image.fromarray(rng.integers(0, 255, (36, 40, 3), dtype=np.uint8)).save(place / f"{number}.jpg")
    settings = (
        *("data=own_users", f"data.images.root={folder / 'pictures'}", "data.images.size=36", "data.input_size=32"),
        *("method=racl", "importance=mas", "model=mlp", f"model.width={width}", "trainer.max_epochs=1", "threads=1"),
        *("engine=serial", "logger=none", f"paths.data_dir={folder / 'data'}", f"paths.store_dir={folder / 'store'}"),
        f"paths.output_dir={folder / 'run'}",
    )
    subprocess.run([*DUA, *settings], check=True, stdout=subprocess.DEVNULL)
    return folder / "run"


class Served:
    """A running `dua serve`, and its memory."""

    def __init__(self, run: Path, state: Path, port: int, words: Path) -> None:
        self.state = state
        self.lines = state / "progress.log"
        before = self.lines.read_text().count("ready\n") if self.lines.exists() else 0
        began = time.monotonic()
        with words.open("ab") as file:
            command = [*DUA, "serve", str(run), "--state", str(state), "--port", str(port)]
            self.process = subprocess.Popen(command, stdout=file, stderr=file)
        while not self.lines.exists() or self.lines.read_text().count("ready\n") == before:
            if self.process.poll() is not None or time.monotonic() - began > READY:
                raise SystemExit(f"dua serve does not start: {words.read_text()[-2000:]}")
            time.sleep(0.1)
        self.seconds = time.monotonic() - began

    def family(self) -> list[int]:
        """The server's process and all below it."""
        parents = {}
        for status in Path("/proc").glob("[0-9]*/stat"):
            try:
                parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
        found = [self.process.pid]
        for pid in found:
            found += [child for child, parent in parents.items() if parent == pid]
        return found

    def mebibytes(self) -> float:
        """The memory of all of them together; what they share counts once (proportional set size)."""
        total = 0
        for pid in self.family():
            try:
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
                total += int(re.findall(r"^Pss:\s+(\d+)", rollup, re.MULTILINE)[0])
            except (OSError, IndexError):
                continue
        return total / 1024

    def kill(self) -> None:
        for pid in self.family():
            os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.kill()

    def progress(self) -> Iterator[dict[str, Any]]:
        """Tells how far the users are whom the server has heard of."""
        for path in (self.state / "users").glob("*/progress.json"):
            yield json.loads(path.read_text())

    def finished(self) -> int:
        return sum(one["stage"] == "finished" for one in self.progress())


def devices(names: list[str], folder: Path, port: int, pause: float, until: float, found: Any) -> None:
    """Some devices as threads of this process; the requests and the digests of their models go into a queue."""
    import httpx
    import torch
    from flwr.app import Message
    from flwr.clientapp import ClientApp
    from flwr.supernode import fleet_http_connection

    from dua_lightning.errors import InputError
    from dua_lightning.federation import supernode
    from dua_lightning.federation.flower import device_of, pack, unpack
    from dua_lightning.federation.keys import PRIORS
    from dua_lightning.federation.parcel import Parcel
    from dua_lightning.personal import files
    from dua_lightning.privacy.message import save_prior
    from dua_lightning.store.files import file_sha256
    from dua_lightning.tasks import Expert

    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    torch.set_num_threads(1)
    requests: list[tuple[float, str, float, int]] = []
    send = httpx.Client.send

    def timed(client: httpx.Client, request: httpx.Request, **more: Any) -> httpx.Response:
        began, clock = time.time(), time.perf_counter()
        status = 0
        try:
            answer = send(client, request, **more)
            status = answer.status_code
            return answer
        finally:
            requests.append((began, request.url.path.rpartition("/")[2], time.perf_counter() - clock, status))

    def failed(*reason: object) -> None:
        raise RuntimeError(*reason)

    httpx.Client.send = timed  # type: ignore[method-assign]
    # Flower ends a process whose connection fails; here others live in it.
    fleet_http_connection.flwr_exit = failed
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    experts: list[Expert] = []
    guard = threading.Lock()
    knows: set[str] = set()
    models: dict[str, str] = {}
    done: set[str] = set()
    refused: dict[str, str] = {}

    def answered(name: str, parcel: Parcel, place: Path) -> Parcel:
        if parcel.verb == "done":
            done.add(name)
            return Parcel({"verb": "done"}, {})
        if parcel.verb == "refuse":
            refused[name] = str(parcel.about.get("reason"))
            return Parcel({"verb": "sorry"}, {})
        if parcel.verb == "adapt":
            models[name] = file_sha256(parcel.files[files.WEIGHTS])
            return Parcel({"verb": "finished"}, {})
        plan = parcel.about["plan"]
        if "experts.safetensors" in parcel.files:
            knows.add(name)
            with guard:
                if not experts:
                    for file, kept in (("experts.json", files.ABOUT), ("experts.safetensors", files.WEIGHTS)):
                        (place / kept).write_bytes(parcel.files[file].read_bytes())
                    model = files.load(place)
                    own = {one for one, _ in model.net.named_parameters()}
                    for task in model.tasks:
                        state = {one: omega.clone() for one, omega in model.states[task.name].items()}
                        experts.append(Expert(task, state))
                    body.extend(sorted(own))
        if name not in knows:
            return Parcel({"verb": "lacks", "experts": plan["experts"]}, {})
        made = torch.Generator().manual_seed(int(name.rpartition("-")[2]))
        sent = {}
        for expert in experts:
            prior = {one: torch.rand(expert.state[one].shape, generator=made) * 1e-6 for one in of_body(expert)}
            file = f"{files.name(expert.task.name)}.safetensors"
            sent[file] = save_prior(
                place / file,
                prior,
                expert,
                importance=plan["importance"],
                images=3,
                settings=plan["settings"]["psi"],
                release=plan["settings"]["release"],
                sender=name,
                key=folder / "devices" / name / PRIORS,
            )
        return Parcel({"verb": "priors", "experts": plan["experts"]}, sent)

    body: list[str] = []

    def of_body(expert: Expert) -> list[str]:
        return [one for one in body if not one.startswith("head")]

    client = ClientApp()

    @client.train()
    def answer(message: Message, context: Any) -> Message:
        name = str(context.node_config["name"])
        with tempfile.TemporaryDirectory() as place:
            reply = Message(pack(answered(name, unpack(message.content, Path(place)), Path(place))), reply_to=message)
        device_of(tuple(sorted(context.node_config.items()))).done = name in done or name in refused
        return reply

    supernode.client = client
    starts = dict.fromkeys(names, 0)

    def live(name: str) -> None:
        state = folder / "devices" / name
        config = {"state": str(state), "images": str(state), "name": name}
        while name not in done and name not in refused and time.time() < until:
            starts[name] += 1
            try:
                supernode.run(f"127.0.0.1:{port}", config, folder / "server" / "ca.crt", lambda _: name in done)
            except (InputError, httpx.HTTPError, RuntimeError):
                time.sleep(RESTS)

    threads = [threading.Thread(target=live, args=(name,), daemon=True) for name in names]
    for thread in threads:
        thread.start()
        time.sleep(pause)
    for thread in threads:
        thread.join(max(0.0, until - time.time()))
    found.put((requests, models, sorted(done), refused, starts))
    found.close()
    found.join_thread()
    # Devices that have not ended in time are left where they are.
    os._exit(0)


def measured(folder: Path, given: argparse.Namespace) -> tuple[pd.DataFrame, dict[str, Any], list[str]]:
    """Devices against the server: their requests, figures of the server, and what was lost."""
    from dua_lightning.federation.address import free_port
    from dua_lightning.federation.keys import new_device
    from dua_lightning.store.files import file_sha256

    run = make_run(folder, given.width)
    names = [f"device-{number}" for number in range(given.devices)]
    state = folder / "server"
    (state / "devices").mkdir(parents=True)
    for name in names:
        card = new_device(folder / "devices" / name, name)
        (state / "devices" / card.name).write_bytes(card.read_bytes())
    port = free_port()
    served = Served(run, state, port, folder / "serve.txt")
    figures: dict[str, Any] = {"devices": given.devices, "start_seconds": round(served.seconds, 1)}
    context = multiprocessing.get_context("spawn")
    queues = [context.Queue() for _ in range(given.processes)]
    began, until = time.time(), time.time() + given.seconds
    pause = given.processes / given.rate
    for number, queue in enumerate(queues):
        part = names[number :: given.processes]
        context.Process(target=devices, args=(part, folder, port, pause, until, queue), daemon=True).start()
    found: list[Any] = []
    reading = [threading.Thread(target=lambda queue=queue: found.append(queue.get()), daemon=True) for queue in queues]
    for thread in reading:
        thread.start()
    peak, kept, said = 0.0, {}, began
    killed: float | None = None
    while any(thread.is_alive() for thread in reading) and time.time() < until + 60:
        peak = max(peak, served.mebibytes())
        finished = served.finished()
        if time.time() - said > 15:
            said = time.time()
            print(f"  {said - began:4.0f} s: {finished} of {given.devices} devices have their models", flush=True)
        if killed is None and finished >= given.devices / 2:
            served.kill()
            killed = time.time()
            kept = {path.parent.name: file_sha256(path) for path in models_of(state)}
            figures["finished_when_killed"] = served.finished()
            served = Served(run, state, port, folder / "serve.txt")
            figures["restart_seconds"] = round(served.seconds, 1)
        time.sleep(1)
    for thread in reading:
        thread.join(1)
    lost = [] if killed is not None else ["the server was not killed: fewer than half of the devices had their models"]
    merged = {path.parent.name: file_sha256(path) for path in models_of(state)}
    lost += [f"{name}: the server's model has changed" for name in kept if merged.get(name) != kept[name]]
    figures |= {"seconds": round(time.time() - began, 1), "server_peak_mib": round(peak)}
    served.end()
    text = served.lines.read_text()
    requests, models, done, starts = [], {}, set(), 0
    for some, theirs, ended, refused, started in found:
        requests += some
        models |= theirs
        done |= set(ended)
        starts += sum(started.values())
        lost += [f"{name}: refused, {reason}" for name, reason in refused.items()]
    for name in names:
        if name not in done or name not in models:
            lost.append(f"{name}: ended without its model")
        elif models[name] != merged.get(name):
            lost.append(f"{name}: has another model than the server")
        if (times := text.count(f"{name}: merged ")) != 1:
            lost.append(f"{name}: merged {times} times")
    figures |= {"with_model": len(done & models.keys()), "connections": starts}
    return pd.DataFrame(requests, columns=["time", "request", "seconds", "status"]), figures, lost


def models_of(state: Path) -> Iterator[Path]:
    """The files of the models that the server keeps for its users."""
    yield from (path for path in (state / "users").glob("*/merged/*/*.safetensors"))


def table(requests: pd.DataFrame) -> pd.DataFrame:
    """Requests a second, the median and the 99th percentile for each kind of request, and for all."""
    kinds = [*requests.groupby("request"), ("all", requests)]
    elapsed = requests.time.max() - requests.time.min()
    rows = [
        {
            "request": str(kind),
            "count": len(of),
            "a_second": len(of) / elapsed,
            "median_ms": of.seconds.median() * 1e3,
            "p99_ms": of.seconds.quantile(0.99) * 1e3,
            "most_ms": of.seconds.max() * 1e3,
            "failed": int((of.status != 200).sum()),
        }
        for kind, of in kinds
    ]
    return pd.DataFrame(rows).round(1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=1000, help="their number (default: 1000)")
    parser.add_argument("--seconds", type=float, default=3600, help="at most so long (default: 3600)")
    parser.add_argument("--processes", type=int, default=2, help="that devices live in (default: 2)")
    parser.add_argument("--rate", type=float, default=20, help="so many come in a second (default: 20)")
    parser.add_argument("--width", type=int, default=8, help="of the network's layers (default: 8)")
    parser.add_argument("--out", type=Path, default=Path("outputs/bench"), help="for the results")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        requests, figures, lost = measured(Path(folder), given)
    given.out.mkdir(parents=True, exist_ok=True)
    found = table(requests)
    found.to_csv(given.out / "federation.csv", index=False)
    write_text(given.out / "federation.json", json.dumps({**figures, "lost": lost}, indent=1) + "\n")
    print(found.to_string(index=False))
    print(json.dumps(figures))
    print("\n".join(lost[:20]) or "nothing lost, nobody merged twice")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
