"""Eq. (1) as one compiled loop: every weight and every importance is read once, every result is written once.

`mode` imports this where it pays.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import carray, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray
from torch import Tensor

from dua_lightning.kernels.compiled import compiled, in_threads, pointer

BLOCK = 128
"""Entries merged at a time: those of some experts fit into the first-level cache, with those that come next."""

CHUNK = 1 << 19
"""Entries that a thread takes at a time, about a millisecond's; a thread that is held up takes fewer chunks."""

Addresses = NDArray[np.int64]


def merge(
    thetas: Sequence[Sequence[Tensor]],
    omegas: Sequence[Sequence[Sequence[Tensor]]],
    outs: Sequence[Sequence[Tensor]],
    zero: bool,
) -> bool:
    """Write the weighted means of several tensors for several users into `outs`; with `zero`, a sum of 0 gives 0.

    `thetas[name][expert]`, `omegas[user][name][expert]` and `outs[user][name]` are contiguous, on the CPU and of
    types in `mode.COMPILED_TYPES`. The result has the same bits for any number of threads.

    Returns whether all importances are non-negative numbers that can be added up. `False` is a suspicion: -0, and what
    is within a factor of 2 of too large, raise it as well.
    """
    weight, importance = thetas[0][0].dtype, omegas[0][0][0].dtype
    # The weights' type as numpy names it, and one for the bits of importances: numpy has no bfloat16.
    real, raw = np.dtype(f"f{weight.itemsize}"), np.dtype(f"u{importance.itemsize}")
    tables = (
        np.array([[t.data_ptr() for t in row] for row in thetas], np.int64),
        np.array([[[t.data_ptr() for t in row] for row in user] for user in omegas], np.int64),
        np.array([[t.data_ptr() for t in user] for user in outs], np.int64),
        np.array([row[0].numel() for row in thetas], np.int64),
    )

    def chunk(start: int) -> int:
        return int(_merge(*tables, start, start + CHUNK, zero, real, raw))

    largest = max(in_threads(chunk, range(0, sum(row[0].numel() for row in thetas), CHUNK)), default=0)
    limit = torch.tensor([torch.finfo(weight).max / (2 * len(thetas[0]))], dtype=importance)
    return largest <= int(limit.view(torch.uint8).numpy().view(raw)[0])


def _to_prefetch(_: Any, pointer: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        flag = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, flag, flag, flag])
        function = builder.module.declare_intrinsic("llvm.prefetch", [cgutils.voidptr_t], kind)
        # To be read, into the nearest level of the cache, as data.
        builder.call(function, [arguments[0], flag(0), flag(3), flag(1)])
        return context.get_dummy_value()

    return types.void(types.voidptr), code


_prefetch: Callable[..., Any] = intrinsic(_to_prefetch)


@compiled
def _at(address: int, start: int, size: int, dtype: Any) -> NDArray[Any]:
    """The entries `start` to `start + size` of the tensor at `address`; the next block of it is sent for.

    A processor foresees what one long loop reads, not 2 N + 1 tensors in turns of a block each. Sending for addresses
    past the end does nothing.
    """
    entries: NDArray[Any] = carray(pointer(address), (start + size,), dtype)[start:]
    coming = address + (start + BLOCK) * entries.itemsize
    for line in range(0, BLOCK * entries.itemsize, 64):
        _prefetch(pointer(coming + line))
    return entries


@compiled
def _first(mean: NDArray[Any], total: NDArray[Any], theta: NDArray[Any], omega: NDArray[Any]) -> None:
    for i in range(len(mean)):
        mean[i] = theta[i]
        total[i] = omega[i]


@compiled
def _next(mean: NDArray[Any], total: NDArray[Any], theta: NDArray[Any], omega: NDArray[Any], k: int) -> None:
    """Expert `k`, counted from 1, joins the running mean; `mode._weighted_mean` explains it."""
    real = mean.dtype.type
    for i in range(len(mean)):
        total[i] += omega[i]
        step = omega[i] / total[i] if total[i] > real(0) else real(1) / real(k)
        # From the nearer end, as torch.lerp: a step of 1 arrives exactly.
        small = step < real(0.5)
        way = theta[i] - mean[i]
        mean[i] = (mean[i] if small else theta[i]) + (step if small else step - real(1)) * way


@compiled
def _largest(bits: NDArray[Any]) -> int:
    """Read as unsigned integers, non-negative floats are in their order, and infinity, NaN and negative ones above."""
    largest: int = bits.dtype.type(0)
    for i in range(len(bits)):
        largest = max(largest, bits[i])
    return largest


@compiled
def _merge(
    thetas: Addresses,
    omegas: Addresses,
    outs: Addresses,
    sizes: NDArray[np.int64],
    start: int,
    stop: int,
    zero: bool,
    real: Any,
    raw: Any,
) -> int:
    """The entries `start` to `stop`, counted through all tensors; returns the bits of the largest importance."""
    largest: int = raw.type(0)
    total = np.empty(BLOCK, real)
    widened = np.empty(BLOCK * total.itemsize // 4, np.uint32)
    before = 0
    for name in range(len(sizes)):
        first = max(start - before, 0)
        last = min(stop - before, sizes[name])
        before += sizes[name]
        for at in range(first, last, BLOCK):
            size = min(BLOCK, last - at)
            for user in range(len(outs)):
                mean = _at(outs[user, name], at, size, real)
                for expert in range(thetas.shape[1]):
                    theta = _at(thetas[name, expert], at, size, real)
                    bits = _at(omegas[user, name, expert], at, size, raw)
                    largest = max(largest, _largest(bits))
                    if bits.itemsize == 2:
                        # bfloat16 is the upper half of float32.
                        for i in range(size):
                            widened[i] = np.uint32(bits[i]) << np.uint32(16)
                        omega = widened.view(real)
                    else:
                        omega = bits.view(real)
                    if expert == 0:
                        _first(mean, total, theta, omega)
                    else:
                        _next(mean, total, theta, omega, expert + 1)
                if zero:
                    for i in range(size):
                        if total[i] == 0:
                            mean[i] = 0
    return largest
