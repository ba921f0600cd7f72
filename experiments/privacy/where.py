"""Bytes and seconds of the three places of a merge: the server, the device, and the server under encryption.

    python experiments/privacy/where.py OUT

Two networks of random weights and random priors stand for five experts and a user's priors: neither bytes nor seconds
depend on their values. `where.csv` goes to OUT. It needs tenseal: pip install 'dua_lightning[privacy]'
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dua_lightning.merge import Mode
from dua_lightning.nets import mlp
from dua_lightning.params import State, body_names
from dua_lightning.privacy.encrypted import Device, merge_encrypted
from dua_lightning.report.records import lines
from dua_lightning.store.files import replacing
from dua_lightning.tasks import Expert, Prior, Task

EXPERTS = 5
TIMES = 3


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """The result, and the least seconds of several calls."""
    seconds = []
    for _ in range(TIMES):
        began = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - began)
    return result, min(seconds)


def size(states: list[State] | list[Prior]) -> int:
    return sum(tensor.nbytes for state in states for tensor in state.values())


def places(name: str, net: nn.Module) -> list[dict[str, Any]]:
    """A line for each place."""
    stream = torch.Generator().manual_seed(1)
    body = list(body_names(net))
    experts = []
    for place in range(EXPERTS):
        state = {
            k: t + torch.randn(t.shape, generator=stream) / 10 if t.is_floating_point() else t
            for k, t in net.state_dict().items()
        }
        experts.append(Expert(Task(f"t{place}", slice(0, 10)), state))
    priors = [{k: torch.rand(e.state[k].shape, generator=stream) for k in body} for e in experts]
    start = experts[0].state
    plain, merging = timed(lambda: Mode()(experts, priors, start))
    device = Device()
    shares, encrypting = timed(lambda: device.encrypt(priors))
    answer, weighing = timed(lambda: merge_encrypted(experts, body, shares))
    model, decrypting = timed(lambda: device.decrypt(answer, priors, experts))
    error = max(float((model["t0"][k] - plain["t0"][k]).abs().max()) for k in body)
    common = {"network": name, "weights": sum(t.numel() for t in priors[0].values()), "experts": EXPERTS}
    merged = size([{k: plain["t0"][k] for k in body}])
    states = size([e.state for e in experts])
    # The device measures psi on the experts, so that they go down in any case.
    return [
        {
            **common,
            "place": "server",
            "up": size(priors),
            "down": states + merged,
            "device seconds": 0.0,
            "server seconds": merging,
            "largest error": 0.0,
        },
        {
            **common,
            "place": "device",
            "up": 0,
            "down": states,
            "device seconds": merging,
            "server seconds": 0.0,
            "largest error": 0.0,
        },
        {
            **common,
            "place": "server, encrypted",
            "up": shares.size,
            "down": states + sum(map(len, answer)),
            "device seconds": encrypting + decrypting,
            "server seconds": weighing,
            "largest error": error,
        },
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    torch.set_num_threads(1)
    nets = {"mlp": mlp((3, 28, 28), 10, 1), "mlp, 40 units wide": mlp((3, 28, 28), 10, 1, width=40)}
    table = [line for name, net in nets.items() for line in places(name, net)]
    out.mkdir(parents=True, exist_ok=True)
    with replacing(out / "where.csv") as temporary:
        temporary.write_text(lines([list(table[0]), *(line.values() for line in table)]), encoding="utf-8")
    for line in table:
        print(line)


if __name__ == "__main__":
    main()
