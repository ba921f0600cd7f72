"""What an adaptation costs the device."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from dua_lightning.adapt.base import Adapt
from dua_lightning.params import State
from dua_lightning.tasks import Batch, Task


@dataclass(frozen=True)
class Cost:
    """Of adapting one task's state.

    `trainable`: number of parameters with a gradient. `bytes`: size of the tensors that differ from the state that the
    server sent, which the device must keep for itself. `seconds`: wall time. `peak_bytes`: how far the process's
    memory rose above where it stood before (on Linux; NaN elsewhere), for tensors on a GPU the allocator's peak.
    """

    trainable: int
    bytes: int
    seconds: float
    peak_bytes: float


def measured(adapt: Adapt, net: nn.Module, state: State, task: Task, data: Iterable[Batch]) -> tuple[State, Cost]:
    """The adapted state, and what it cost."""
    cuda = any(tensor.is_cuda for tensor in state.values())
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        before: float = torch.cuda.memory_allocated()
    else:
        before = reset_peak()
    began = time.perf_counter()
    final = adapt(net, state, task, data)
    seconds = time.perf_counter() - began
    after: float = torch.cuda.max_memory_allocated() if cuda else status("VmHWM")
    changed = sum(t.nbytes for name, t in final.items() if t is not state[name] and not torch.equal(t, state[name]))
    return final, Cost(adapt.trainable(net), changed, seconds, after - before)


def reset_peak() -> float:
    """Resident memory now, in bytes, with the kernel's record of its peak set back to it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return float("nan")
    return status("VmRSS")


def status(key: str) -> float:
    """A size of this process in bytes, by its name in Linux's /proc; NaN elsewhere."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return next((1024.0 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:")), float("nan"))
