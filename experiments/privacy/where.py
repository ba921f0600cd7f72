"""Bytes, seconds and memory of the three places of a merge: the server, the device, and the server under encryption.

    python experiments/privacy/where.py OUT

Networks of random weights and random priors stand for five experts and a user's priors: neither bytes nor seconds nor
memory depend on their values. Each place has a fresh process, since memory that was freed is used again. `where.csv`
goes to OUT. It needs Linux, and tenseal: pip install 'dua_lightning[privacy]'
"""

import argparse
import ctypes
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dua_lightning.merge import Mode
from dua_lightning.nets import mlp
from dua_lightning.nets.torchvision import from_torchvision
from dua_lightning.params import body_names
from dua_lightning.privacy.encrypted import Device, merge_encrypted
from dua_lightning.privacy.where import size
from dua_lightning.report.records import lines
from dua_lightning.store.files import replacing
from dua_lightning.tasks import Expert, Prior, Task

EXPERTS = 5
TIMES = 3
NETS: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: mlp((3, 28, 28), 10, 1),
    "mobilenet_v2": lambda: from_torchvision("mobilenet_v2", (3, 32, 32), 10, 1),
}
PLACES = ("server", "device", "encrypted")


def memory(name: str) -> int:
    """The bytes of a line of this process's status: VmRSS is what it takes, VmHWM the most that it took."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(status[name].split()[0])


def watched(call: Callable[[], Any]) -> tuple[Any, float, int]:
    """The result, the least seconds of several calls, and how far memory rose in the first."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    began = time.perf_counter()
    result = call()
    seconds = [time.perf_counter() - began]
    rose = memory("VmHWM") - before
    for _ in range(TIMES - 1):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return result, min(seconds), rose


def made(net: nn.Module) -> tuple[list[Expert], list[Prior]]:
    stream = torch.Generator().manual_seed(1)
    experts = []
    for place in range(EXPERTS):
        state = {
            k: t + torch.randn(t.shape, generator=stream) / 10 if t.is_floating_point() else t.clone()
            for k, t in net.state_dict().items()
        }
        experts.append(Expert(Task(f"t{place}", slice(0, 10)), state))
    body = body_names(net)
    return experts, [{k: torch.rand(e.state[k].shape, generator=stream) for k in body} for e in experts]


def line(name: str, place: str) -> dict[str, Any]:
    """The costs of a place."""
    torch.set_num_threads(1)
    experts, priors = made(NETS[name]())
    # The device measures psi on the experts, so that they go down in any case.
    up, down = 0, size([e.state for e in experts])
    spent = {"device": (0.0, 0), "server": (0.0, 0)}
    error = 0.0
    # Loading the compiled loop is no part of the merge.
    plain = Mode()(experts, priors, {})
    if place != "encrypted":
        model, *spent[place] = watched(lambda: Mode()(experts, priors, {}))
        if place == "server":
            up = sum(size([prior]) for prior in priors)
            down = size([*(e.state for e in experts), *model.values()])
    else:
        device = Device()
        shares, encrypting, most = watched(lambda: device.encrypt(priors))
        answer, weighing, rose = watched(lambda: merge_encrypted(experts, list(priors[0]), shares))
        model, decrypting, again = watched(lambda: device.decrypt(answer, priors, experts))
        # Both sides are one process here; the server would hold the message besides, and the device the answer.
        received = sum(map(len, answer))
        spent["device"] = encrypting + decrypting, max(most, again + received)
        spent["server"] = weighing, rose + shares.size
        up, down = shares.size, down + received
        error = max(float((model["t0"][k] - plain["t0"][k]).abs().max()) for k in priors[0])
    return {
        "network": name,
        "weights": sum(t.numel() for t in priors[0].values()),
        "experts": EXPERTS,
        "where": place,
        "up": up,
        "down": down,
        **{f"{side} seconds": seconds for side, (seconds, _) in spent.items()},
        **{f"{side} MiB": rose / 2**20 for side, (_, rose) in spent.items()},
        "largest error": error,
        "largest weight": max(float(e.state[k].abs().max()) for e in experts for k in priors[0]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--net", nargs="+", choices=NETS, default=[*NETS], help="the networks (default: all)")
    given = parser.parse_args()
    table = []
    for name in given.net:
        for place in PLACES:
            with ProcessPoolExecutor(1, get_context("spawn")) as fresh:
                table.append(fresh.submit(line, name, place).result())
            print(table[-1], flush=True)
    given.out.mkdir(parents=True, exist_ok=True)
    with replacing(given.out / "where.csv") as temporary:
        temporary.write_text(lines([list(table[0]), *(one.values() for one in table)]), encoding="utf-8")


if __name__ == "__main__":
    main()
