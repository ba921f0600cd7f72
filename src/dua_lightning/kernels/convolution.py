"""A convolution's sum over samples of |gradient|^power, by a loop that keeps a few rows of one gradient at a time.

The gradient of one sample is a product of matrices, its unfolded input (positions, inputs) and its output gradient
(positions, outputs). Four rows of it are summed over the positions, and their power is added to the total while they
are in the first-level cache. The input is never unfolded: input `r` at position `k` is the number
`inputs[r] + positions[k]` of the padded image.
"""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from dua_lightning.kernels.compiled import compiled, in_threads

STEP = 4
"""Inputs, and positions, that the loop takes at a time: `_add` names each of them."""
SHARE = 64
"""Inputs that a thread takes at a time: their total lies in the second-level cache while all samples come by."""


@torch.no_grad()
def add_(total: Tensor, a: Tensor, inputs: Tensor, positions: Tensor, d: Tensor, power: int) -> None:
    """Add `sum_i |sum_k a[i, inputs[r] + positions[k]] d[i, o, k]|^power` to `total[o, r]`.

    The library's gradient of each sample, which `rules` takes elsewhere, is written to memory and read back. With it,
    psi of VGG11-BN takes 1.3 times as long for 64 images of 64 pixels on two busy cores, and 1.0 to 1.1 times on one
    thread (`python benchmarks/ablation.py --only psi`). A convolution of the library that takes the power of each
    sample's gradient before the sum would replace this module.

    Args:
        total: The sums so far, `(outputs, inputs)`, float32 or float64 on the CPU. They get the same bits for any
            number of threads.
        a: The padded images, `(n, numbers of an image)`, of the same type.
        inputs: Where each input lies in an image for the first position, `(inputs,)`, int64.
        positions: How much further it lies for each position, `(positions,)`, int64.
        d: The output's gradients, `(n, outputs, positions)`, of the same type.
        power: 1 for the absolute value, 2 for the square.
    """
    rows = pad(inputs, (0, -len(inputs) % STEP))
    # At the positions that fill the last step up, the gradients are 0.
    d = pad(d, (0, -len(positions) % STEP)).mT.contiguous()
    positions = pad(positions, (0, -len(positions) % STEP))
    sums = total.new_zeros(len(rows), len(total))
    arrays = [tensor.numpy() for tensor in (sums, a, rows, positions, d)]

    def share(first: int) -> None:
        _add(*arrays, first, min(len(rows), first + SHARE), power)

    in_threads(share, range(0, len(rows), SHARE))
    total += sums[: len(inputs)].mT


@compiled
def _add(
    sums: NDArray[Any],
    images: NDArray[Any],
    inputs: NDArray[Any],
    positions: NDArray[Any],
    gradients: NDArray[Any],
    first: int,
    last: int,
    power: int,
) -> None:
    """All samples for the inputs `first` to `last`. The sixteen factors have names so that they stay in registers."""
    rows = sums[:4].copy()
    for i in range(len(images)):
        image, d = images[i], gradients[i]
        for r in range(first, last, 4):
            r0, r1, r2, r3 = inputs[r], inputs[r + 1], inputs[r + 2], inputs[r + 3]
            rows[:] = 0
            for k in range(0, len(positions), 4):
                k0, k1, k2, k3 = positions[k], positions[k + 1], positions[k + 2], positions[k + 3]
                a00, a01, a02, a03 = image[r0 + k0], image[r0 + k1], image[r0 + k2], image[r0 + k3]
                a10, a11, a12, a13 = image[r1 + k0], image[r1 + k1], image[r1 + k2], image[r1 + k3]
                a20, a21, a22, a23 = image[r2 + k0], image[r2 + k1], image[r2 + k2], image[r2 + k3]
                a30, a31, a32, a33 = image[r3 + k0], image[r3 + k1], image[r3 + k2], image[r3 + k3]
                for o in range(rows.shape[1]):
                    d0, d1, d2, d3 = d[k, o], d[k + 1, o], d[k + 2, o], d[k + 3, o]
                    rows[0, o] += a00 * d0 + a01 * d1 + a02 * d2 + a03 * d3
                    rows[1, o] += a10 * d0 + a11 * d1 + a12 * d2 + a13 * d3
                    rows[2, o] += a20 * d0 + a21 * d1 + a22 * d2 + a23 * d3
                    rows[3, o] += a30 * d0 + a31 * d1 + a32 * d2 + a33 * d3
            for j in range(4):
                for o in range(rows.shape[1]):
                    g = abs(rows[j, o])
                    sums[r + j, o] += g if power == 1 else g * g
