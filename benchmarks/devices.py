"""psi on an accelerator: seconds of a forward and backward pass, and how far the numbers are from float64.

    python benchmarks/devices.py [--device cuda] [--images 64] [--side 64] [--networks resnet18 mobilenet_v2 ...]

The pass is that of the same images with the gradients of all weights. Error: the norm of the difference from psi in
float64 on the processor over the norm of that, over all layers and for the worst, of 16 images.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from paths import BACKBONES
from rich.console import Console
from rich.table import Table
from torch import nn

from dua_lightning.importance import MAS
from dua_lightning.nets import from_torchvision
from dua_lightning.params import Params, State
from dua_lightning.tasks import Expert, Task

TASK = Task("task", slice(0, 2))


def seconds(call: Callable[[], object], device: str, runs: int = 9) -> float:
    """The median of several runs after a warm-up, each waited for."""

    def wait() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    for _ in range(3):
        call()
    taken = []
    for _ in range(runs):
        began = wait()
        call()
        taken.append(wait() - began)
    return median(taken)


def double(state: State) -> State:
    return {name: t.double() if t.is_floating_point() else t for name, t in state.items()}


def errors(got: Params, exact: Params) -> tuple[float, float]:
    """Over all layers, and of the worst."""
    apart = {name: (got[name].cpu().double() - t).norm() for name, t in exact.items()}
    every = torch.stack(list(apart.values())).norm() / torch.stack([t.norm() for t in exact.values()]).norm()
    return float(every), max(float(apart[name] / t.norm()) for name, t in exact.items() if t.norm() > 0)


def measure(net: nn.Module, x: torch.Tensor, device: str) -> list[str]:
    few = x[:16]
    exact = MAS()(net.double(), Expert(TASK, double(net.state_dict())), [(few.double(), None)])
    net.float()
    state = {name: t.to(device) for name, t in net.state_dict().items()}
    expert = Expert(TASK, state)
    every, worst = errors(MAS()(net, expert, [(few, None)]), exact)
    there = net.to(device)

    def step() -> None:
        there.zero_grad()
        there(x.to(device)).square().sum().backward()

    psi, least = (seconds(call, device) for call in (lambda: MAS()(there, expert, [(x, None)]), step))
    return [f"{1e3 * psi:.1f}", f"{1e3 * least:.1f}", f"{psi / least:.2f}", f"{every:.1e}", f"{worst:.1e}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "mps", "cpu"))
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--networks", nargs="+", default=list(BACKBONES), choices=list(BACKBONES))
    given = parser.parse_args()
    # The pass is in float32 as well, as psi always is.
    torch.backends.cudnn.allow_tf32 = False
    table = Table("network", "psi, ms", "pass, ms", "ratio", "error", "worst layer")
    for name in given.networks:
        torch.manual_seed(0)
        x = torch.rand(given.images, 3, given.side, given.side)
        arguments = {key: given.side if key == "image_size" else value for key, value in BACKBONES[name].items()}
        net = from_torchvision(name, (3, given.side, given.side), 2, seed=0, **arguments).eval()
        table.add_row(name, *measure(net, x, given.device))
    Console().print(table)


if __name__ == "__main__":
    main()
