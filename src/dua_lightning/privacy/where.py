"""The place of a merge, and what it costs a user: on the server, on the device, or on the server under encryption."""

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dua_lightning.merge import Merge
from dua_lightning.params import State, device_of
from dua_lightning.privacy.encrypted import Encrypted, Exchange
from dua_lightning.tasks import Expert, Prior, UserModel


@dataclass(frozen=True)
class MergeCost:
    """The cost of merging all experts for one user.

    Args:
        up: The bytes of numbers that the device sends for it.
        down: The bytes of numbers that the device is sent: the experts, where it measures a prior on them or uses them
            in another way, and what the personal model has besides.
        device_seconds: The wall time of the device.
        server_seconds: The wall time of the server.
        peak_bytes: How far memory rose above where it stood before, as the allocator of a CUDA device counts it; NaN on
            other devices, where nobody counts.
    """

    up: int
    down: int
    device_seconds: float
    server_seconds: float
    peak_bytes: float


class Metered:
    """A merge that remembers what its last call took. The model is that of the merge, bit for bit.

    Args:
        chi: The merge; `Encrypted` is that under encryption.
        on_device: Whether the device computes it.
    """

    def __init__(self, chi: Merge, on_device: bool = False) -> None:
        self.needs_prior = chi.needs_prior
        self.keeps_statistics = chi.keeps_statistics
        self._chi = chi
        self._on_device = on_device
        self._exchange: Exchange | None = None
        self._seconds = self._peak = math.nan

    def __call__(self, experts: Sequence[Expert], priors: Sequence[Prior], start: State) -> UserModel:
        device = device_of(experts[0].state)
        counted = device.type == "cuda"
        if counted:
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device) if counted else math.nan
        began = time.perf_counter()
        if isinstance(self._chi, Encrypted):
            model, self._exchange = self._chi.exchange(experts, priors)
        else:
            model = self._chi(experts, priors, start)
        if counted:
            torch.cuda.synchronize(device)
            self._peak = torch.cuda.max_memory_allocated(device) - before
        self._seconds = time.perf_counter() - began
        return model

    def cost(self, sent: int, experts: Iterable[Expert], model: UserModel) -> MergeCost:
        """Tell the cost of the last call.

        Args:
            sent: The bytes of the priors, which the device sends where the server merges and reads them.
            experts: The experts that the device has; it has them all where it merges.
            model: The personal model that the device uses, with its batch-norm statistics.

        Returns:
            The cost.
        """
        there = [expert.state for expert in experts]
        if self._exchange is not None:
            up, down = self._exchange.up, size(there) + self._exchange.down
            return MergeCost(up, down, self._exchange.device_seconds, self._exchange.server_seconds, self._peak)
        if self._on_device:
            return MergeCost(0, size(there), self._seconds, 0.0, self._peak)
        return MergeCost(sent, size([*there, *model.values()]), 0.0, self._seconds, self._peak)


def size(states: Iterable[State]) -> int:
    """Count the bytes of states, those of a tensor that several of them have once.

    Args:
        states: Tensors by name.

    Returns:
        The bytes, without names and shapes.
    """
    tensors: dict[int, Tensor] = {id(tensor): tensor for state in states for tensor in state.values()}
    return sum(tensor.nbytes for tensor in tensors.values())
