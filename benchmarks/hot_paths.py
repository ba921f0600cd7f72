"""Time of the hot paths against lower bounds measured in the same process: `make bench`.

Each path and its floor run in turn, several times after a warm-up; the ratio of a pair is what counts, because the
speed of a machine drifts. Prints the table and writes it as JSON to `outputs/bench/hot_paths.json`.
"""

import json
import logging
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from dua_lightning.data.images import Batches, images
from dua_lightning.data.server import ServerData
from dua_lightning.files import write_text
from dua_lightning.importance import MAS, Fisher, Uniform
from dua_lightning.merge import Mode
from dua_lightning.methods import Anchor, Free
from dua_lightning.nets import mlp
from dua_lightning.params import clone
from dua_lightning.tasks import Expert, Task
from dua_lightning.training import Training, fit

RUNS = 7
TASK = Task("0-1", slice(0, 2))
Call = Callable[[], object]


def synthetic(n: int):
    """`n` noise images of the Numbers benchmark's size, half of each class."""
    stream = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (n, 3, 28, 28), dtype=torch.uint8, generator=stream)
    return images(pixels, torch.arange(n) % 2, torch.arange(n), 0.5, 0.5)


def psi(importance) -> tuple[Call, Call]:
    """1,000 images through the paper's MLP; floor: one batched forward and backward pass of the same images."""
    net = mlp((3, 28, 28), 2, seed=0)
    expert = Expert(TASK, clone(net.state_dict()))
    data = [next(iter(Batches(synthetic(1000), 1000)))]

    def floor() -> None:
        net.zero_grad()
        net(data[0][0]).square().sum().backward()

    return lambda: importance(net, expert, data), floor


def merge() -> tuple[Call, Call]:
    """Four experts of 16M weights; floor: a triad that reads and writes as many bytes."""
    shape, count = (4096, 4096), 4
    states = [{"body": torch.rand(shape)} for _ in range(count)]
    experts = [Expert(Task(str(k), slice(2 * k, 2 * k + 2)), state) for k, state in enumerate(states)]
    priors = [{"body": torch.rand(shape)} for _ in range(count)]
    out = torch.empty(shape)

    def floor() -> None:
        # Two reads and a write each: eight tensors read and four written, three more writes than a merge needs.
        for expert, prior in zip(experts, priors, strict=True):
            torch.add(expert.state["body"], prior["body"], alpha=0.5, out=out)

    return lambda: Mode()(experts, priors), floor


def training(regulariser) -> tuple[Call, Call]:
    """One epoch of 2,000 images in batches of 20; floor: a bare loop over slices of float32 images in memory."""
    net = mlp((3, 28, 28), 10, seed=0)
    data = ServerData(TASK, synthetic(2000), synthetic(20), batch_size=20, seed=0)
    expert = Expert(TASK, clone(net.state_dict()))
    ready = regulariser.consolidate(net, expert, data.predict_dataloader())
    x, y = data.train.inputs(), data.train.labels
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)

    def floor() -> None:
        for index in torch.randperm(len(y)).split(20):
            loss = nn.functional.cross_entropy(net(x[index])[:, :2], y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return lambda: fit(net, data, ready, Training(max_epochs=1)), floor


def start() -> tuple[Call, Call]:
    """`--help`; floor: the interpreter alone."""

    def process(*arguments: str) -> None:
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)

    return lambda: process("-m", "dua_lightning", "--help"), lambda: process("-c", "pass")


PATHS: dict[str, Callable[[], tuple[Call, Call]]] = {
    "MAS, MLP, 1,000 images": lambda: psi(MAS()),
    "Fisher, MLP, 1,000 images": lambda: psi(Fisher()),
    "mode merge, 4 experts of 16M weights": merge,
    "training, one epoch, no regulariser": lambda: training(Free()),
    "training, one epoch, L2-transfer": lambda: training(Anchor(Uniform(), 1e-3, accumulate=False)),
    "--help": start,
}


def seconds(call: Call) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def main() -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    table = Table("path", "floor (s)", "measured (s)", "ratio (min - max)", title=f"medians of {RUNS} pairs")
    results = {}
    for name, make in PATHS.items():
        path, floor = make()
        path(), floor()
        pairs = [(seconds(path), seconds(floor)) for _ in range(RUNS)]
        ratios = sorted(a / b for a, b in pairs)
        measured, least = (statistics.median(column) for column in zip(*pairs, strict=True))
        results[name] = {"measured_s": measured, "floor_s": least, "ratios": ratios}
        spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} - {ratios[-1]:.2f})"
        table.add_row(name, f"{least:.4f}", f"{measured:.4f}", spread)
    Console().print(table)
    write_text(Path("outputs/bench/hot_paths.json"), json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
