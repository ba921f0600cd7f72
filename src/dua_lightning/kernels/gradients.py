"""Sums over samples of |gradient of a weight|^power, by loops that keep a few rows of one gradient at a time.

A gradient of one sample is never whole. Its entries are sums over positions, four of which are added at a time. With
the last ones the power of the sum is taken and added to the total, while both are in the first-level cache.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from dua_lightning.kernels.compiled import compiled, in_threads

STEP = 4
"""Outputs, and positions, that a loop takes at a time: the loops name each of them."""
COLUMNS = 768
"""Inputs that a loop takes at a time: the sums of a step of outputs lie in the first-level cache."""
SHARE = 1 << 16
"""Numbers of the total that a thread takes at a time: they lie in the second-level cache while all samples come by."""
CHANNELS = 128
"""Channels that a loop takes at a time: an image of theirs lies in the cache while all places of the kernel come by."""
WORTH_A_THREAD = 16_000_000
"""Multiplications that take as long as a thread takes to begin."""


@torch.no_grad()
def add_products_(total: Tensor, a: Tensor, d: Tensor, power: int) -> None:
    """Add `sum_i |sum_k d[i, k, o] a[i, k, r]|^power` to `total[o, r]`.

    The library's gradient of each sample, which `rules` takes elsewhere, is written to memory and read back. With it in
    place of both loops, psi of 64 images of 64 pixels takes 1.2 to 2.0 times as long on one thread: see
    `benchmarks/ablation.py` and docs/performance.md. A product of the library that takes the power of each sample's
    entries before the sum would replace this loop.

    Args:
        total: The sums so far, `(outputs, inputs)`, contiguous, float32 or float64 on the CPU. They get the same bits
            for any number of threads.
        a: The inputs, `(n, positions, inputs)`, of the same type.
        d: The output's gradients, `(n, positions, outputs)`, of the same type.
        power: 1 for the absolute value, 2 for the square.
    """
    # An odd square, or a class token, has a position more than whole steps, which is not worth a step.
    positions = 0 if a.shape[1] > 1 and a.shape[1] % STEP == 1 else -a.shape[1] % STEP
    outputs = -len(total) % STEP
    # At what fills the last step up, the gradients are 0. What needs nothing is not copied.
    if positions:
        a = pad(a, (0, 0, 0, positions))
    if positions or outputs:
        d = pad(d, (0, outputs, 0, positions))
    arrays = [tensor.numpy() for tensor in (total, a.contiguous(), d)]
    most = max(1, SHARE // (STEP * min(COLUMNS, total.shape[1])))
    size = STEP * _share(-(-len(total) // STEP), most, total.numel() * len(d) * d.shape[1])

    def share(first: int) -> None:
        _add_products(*arrays, first, min(len(total), first + size), power)

    in_threads(share, range(0, len(total), size))


@torch.no_grad()
def add_depthwise_(total: Tensor, a: Tensor, taps: Tensor, positions: Tensor, d: Tensor, power: int) -> None:
    """Add `sum_i |sum_k d[i, c, k] a[i, c, taps[t] + positions[k]]|^power` to `total[c, t]`.

    With 384 channels of 16 positions and kernels of 49 it takes a seventh of the time of the library's gradients, and
    with 960 channels of 4 positions and kernels of 9 about a fifth.

    Args:
        total: The sums so far, `(channels, taps)`, float32 or float64 on the CPU. They get the same bits for any number
            of threads.
        a: The padded images, `(n, channels, places)`, of the same type.
        taps: Where each weight of the kernel lies in an image for the first position, `(taps,)`, int64.
        positions: How much further it lies for each position, `(positions,)`, int64.
        d: The output's gradients, `(n, channels, positions)`, of the same type.
        power: 1 for the absolute value, 2 for the square.
    """
    # At the positions that fill the last step up, the gradients are 0.
    fill = -len(positions) % STEP
    sums = total.new_zeros(len(taps), len(total))
    tensors = sums, a.mT.contiguous(), pad(d, (0, fill)).mT.contiguous(), taps, pad(positions, (0, fill))
    arrays = [tensor.numpy() for tensor in tensors]
    size = _share(len(taps), len(taps), len(taps) * d.numel())

    def share(first: int) -> None:
        _add_depthwise(*arrays, first, min(len(taps), first + size), power)

    in_threads(share, range(0, len(taps), size))
    total += sums.mT


def _share(count: int, most: int, multiplications: int) -> int:
    """Return how many of `count` parts a thread takes at a time: no more than `most`, and as many as other threads."""
    threads = max(1, min(torch.get_num_threads(), multiplications // WORTH_A_THREAD))
    return -(-count // (threads * -(-count // (most * threads))))


@compiled
def _add_products(
    total: NDArray[Any], inputs: NDArray[Any], gradients: NDArray[Any], first: int, last: int, power: int
) -> None:
    """All samples for the outputs `first` to `last`. The sixteen factors have names so that they stay in registers.

    The first step writes the sums, and the last one, which may be the same, adds their power to the total: a body for
    each place of a step spares readings and writings of the sums.
    """
    rows, rest = np.empty((4, COLUMNS), total.dtype), gradients.shape[1] % 4
    # In a type that no product widens.
    used = np.float32(rest)
    for b in range(0, total.shape[1], COLUMNS):
        # Numbers without a sign do not count from an array's end, and numba takes vectors of them.
        start, width = np.uint64(b), np.uint64(min(COLUMNS, total.shape[1] - b))
        for i in range(len(inputs)):
            a, d = inputs[i], gradients[i]
            for r in range(first, last, 4):
                # The rows that fill the last step up add 0 to the last output.
                r1, r2, r3 = min(r + 1, last - 1), min(r + 2, last - 1), min(r + 3, last - 1)
                # A position more than whole steps goes with the first step. Without one, these factors are 0.
                e0, e1, e2, e3 = used * d[0, r], used * d[0, r + 1], used * d[0, r + 2], used * d[0, r + 3]
                for k in range(rest, len(d), 4):
                    d00, d01, d02, d03 = d[k, r], d[k + 1, r], d[k + 2, r], d[k + 3, r]
                    d10, d11, d12, d13 = d[k, r + 1], d[k + 1, r + 1], d[k + 2, r + 1], d[k + 3, r + 1]
                    d20, d21, d22, d23 = d[k, r + 2], d[k + 1, r + 2], d[k + 2, r + 2], d[k + 3, r + 2]
                    d30, d31, d32, d33 = d[k, r + 3], d[k + 1, r + 3], d[k + 2, r + 3], d[k + 3, r + 3]
                    if len(d) < 8:
                        for c in range(width):
                            x = start + c
                            a0, a1, a2, a3 = a[k, x], a[k + 1, x], a[k + 2, x], a[k + 3, x]
                            b0 = a[0, x]
                            g0 = abs(e0 * b0 + d00 * a0 + d01 * a1 + d02 * a2 + d03 * a3)
                            g1 = abs(e1 * b0 + d10 * a0 + d11 * a1 + d12 * a2 + d13 * a3)
                            g2 = abs(e2 * b0 + d20 * a0 + d21 * a1 + d22 * a2 + d23 * a3)
                            g3 = abs(e3 * b0 + d30 * a0 + d31 * a1 + d32 * a2 + d33 * a3)
                            total[r, x] += g0 if power == 1 else g0 * g0
                            total[r1, x] += g1 if power == 1 else g1 * g1
                            total[r2, x] += g2 if power == 1 else g2 * g2
                            total[r3, x] += g3 if power == 1 else g3 * g3
                    elif k < 4:
                        for c in range(width):
                            x = start + c
                            a0, a1, a2, a3 = a[k, x], a[k + 1, x], a[k + 2, x], a[k + 3, x]
                            b0 = a[0, x]
                            rows[0, c] = e0 * b0 + d00 * a0 + d01 * a1 + d02 * a2 + d03 * a3
                            rows[1, c] = e1 * b0 + d10 * a0 + d11 * a1 + d12 * a2 + d13 * a3
                            rows[2, c] = e2 * b0 + d20 * a0 + d21 * a1 + d22 * a2 + d23 * a3
                            rows[3, c] = e3 * b0 + d30 * a0 + d31 * a1 + d32 * a2 + d33 * a3
                    elif k + 4 < len(d):
                        for c in range(width):
                            x = start + c
                            a0, a1, a2, a3 = a[k, x], a[k + 1, x], a[k + 2, x], a[k + 3, x]
                            rows[0, c] = rows[0, c] + d00 * a0 + d01 * a1 + d02 * a2 + d03 * a3
                            rows[1, c] = rows[1, c] + d10 * a0 + d11 * a1 + d12 * a2 + d13 * a3
                            rows[2, c] = rows[2, c] + d20 * a0 + d21 * a1 + d22 * a2 + d23 * a3
                            rows[3, c] = rows[3, c] + d30 * a0 + d31 * a1 + d32 * a2 + d33 * a3
                    else:
                        for c in range(width):
                            x = start + c
                            a0, a1, a2, a3 = a[k, x], a[k + 1, x], a[k + 2, x], a[k + 3, x]
                            g0 = abs(rows[0, c] + d00 * a0 + d01 * a1 + d02 * a2 + d03 * a3)
                            g1 = abs(rows[1, c] + d10 * a0 + d11 * a1 + d12 * a2 + d13 * a3)
                            g2 = abs(rows[2, c] + d20 * a0 + d21 * a1 + d22 * a2 + d23 * a3)
                            g3 = abs(rows[3, c] + d30 * a0 + d31 * a1 + d32 * a2 + d33 * a3)
                            total[r, x] += g0 if power == 1 else g0 * g0
                            total[r1, x] += g1 if power == 1 else g1 * g1
                            total[r2, x] += g2 if power == 1 else g2 * g2
                            total[r3, x] += g3 if power == 1 else g3 * g3


@compiled
def _add_depthwise(
    sums: NDArray[Any],
    images: NDArray[Any],
    gradients: NDArray[Any],
    taps: NDArray[Any],
    positions: NDArray[Any],
    first: int,
    last: int,
    power: int,
) -> None:
    """All samples for the places `first` to `last` of the kernel; channels are the last dimension of the arrays."""
    row = np.zeros(CHANNELS, sums.dtype)
    for i in range(len(images)):
        a, d = images[i], gradients[i]
        for b in range(0, sums.shape[1], CHANNELS):
            # Numbers without a sign do not count from an array's end, and numba takes vectors of them.
            start, width = np.uint64(b), np.uint64(min(CHANNELS, sums.shape[1] - b))
            for t in range(first, last):
                for k in range(0, len(d), 4):
                    p0, p1, p2, p3 = positions[k], positions[k + 1], positions[k + 2], positions[k + 3]
                    a0, a1, a2, a3 = a[taps[t] + p0], a[taps[t] + p1], a[taps[t] + p2], a[taps[t] + p3]
                    d0, d1, d2, d3 = d[k], d[k + 1], d[k + 2], d[k + 3]
                    for c in range(width):
                        x = start + c
                        row[c] += a0[x] * d0[x] + a1[x] * d1[x] + a2[x] * d2[x] + a3[x] * d3[x]
                for c in range(width):
                    g = abs(row[c])
                    sums[t, start + c] += g if power == 1 else g * g
                    row[c] = 0
