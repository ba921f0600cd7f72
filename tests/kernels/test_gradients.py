"""The compiled sums over samples, against the same sums written out."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from dua_lightning.importance.rules import Power
from dua_lightning.kernels import compiled
from dua_lightning.kernels import gradients as kernel
from tests.helpers.nets import close

SIZES = [(64, 96, 16, 3), (70, 13, 9, 4), (140, 800, 6, 2), (5, 7, 5, 2), (5, 7, 4, 2), (1, 1, 1, 1)]
"""Outputs, inputs, positions and images: whole steps, more than them, more than fit the cache, and one of each.

For a convolution of each channel, the outputs are the channels, and the inputs the numbers of its kernel.
"""
TYPES = [(torch.float64, 1e-12), (torch.float32, 1e-5)]
POWERS: list[Power] = [1, 2]

Sizes = tuple[int, int, int, int]


def products(sizes: Sizes, dtype: torch.dtype, power: Power) -> tuple[Tensor, Tensor]:
    """The compiled sums, and those written out; the total is not 0."""
    outputs, inputs, positions, n = sizes
    stream = torch.Generator().manual_seed(0)
    total = torch.rand(outputs, inputs, generator=stream, dtype=dtype)
    a = torch.randn(n, positions, inputs, generator=stream, dtype=dtype)
    d = torch.randn(n, outputs, positions, generator=stream, dtype=dtype)
    expected = total + sum((d_i @ a_i).abs() ** power for a_i, d_i in zip(a, d, strict=True))
    kernel.add_products_(total, a, d.mT, power)
    return total, expected


def depthwise(sizes: Sizes, dtype: torch.dtype, power: Power) -> tuple[Tensor, Tensor]:
    channels, kernel_size, positions, n = sizes
    stream = torch.Generator().manual_seed(0)
    total = torch.rand(channels, kernel_size, generator=stream, dtype=dtype)
    a = torch.randn(n, channels, 50, generator=stream, dtype=dtype)
    d = torch.randn(n, channels, positions, generator=stream, dtype=dtype)
    taps, places = (
        torch.randint(40, (kernel_size,), generator=stream),
        torch.randint(11, (positions,), generator=stream),
    )
    seen = a[:, :, taps[:, None] + places]
    expected = total + (seen * d[:, :, None]).sum(3).abs().pow(power).sum(0)
    kernel.add_depthwise_(total, a, taps, places, d, power)
    return total, expected


LOOPS = pytest.mark.parametrize("loop", [products, depthwise])
Loop = Callable[[Sizes, torch.dtype, Power], tuple[Tensor, Tensor]]


@LOOPS
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize(("dtype", "error"), TYPES)
@pytest.mark.parametrize("power", POWERS)
def test_it_adds_the_power_of_each_samples_gradient(
    loop: Loop, sizes: Sizes, dtype: torch.dtype, error: float, power: Power
) -> None:
    total, expected = loop(sizes, dtype, power)
    close({"total": total}, {"total": expected}, error)


@LOOPS
@pytest.mark.parametrize("power", POWERS)
def test_the_bits_depend_neither_on_threads_nor_on_how_the_work_is_cut(
    loop: Loop, power: Power, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares: list[int] = []

    def in_threads(work: Callable[[int], None], items: Sequence[int]) -> list[None]:
        shares.append(len(items))
        return compiled.in_threads(work, items)

    monkeypatch.setattr(kernel, "in_threads", in_threads)
    (before, _), threads = loop((70, 50, 9, 4), torch.float32, power), torch.get_num_threads()
    monkeypatch.setattr(kernel, "WORTH_A_THREAD", 1)
    try:
        torch.set_num_threads(3)
        assert torch.equal(loop((70, 50, 9, 4), torch.float32, power)[0], before)
    finally:
        torch.set_num_threads(threads)
    assert shares == [1, 3]


def test_threads_get_equal_shares_of_what_fits_the_cache() -> None:
    """The shares of a work of `count` parts: their sizes, for so many threads, at most so many parts, so much work."""

    def sizes(count: int, threads: int, most: int, work: int) -> list[int]:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            size = kernel._share(count, most, work)
        finally:
            torch.set_num_threads(before)
        return [min(size, count - first) for first in range(0, count, size)]

    much = 100 * kernel.WORTH_A_THREAD
    assert sizes(24, 2, 16, much) == [12, 12]
    assert sizes(24, 2, 11, much) == [6, 6, 6, 6]
    assert sizes(24, 1, 11, much) == [8, 8, 8]
    assert sizes(24, 2, 100, kernel.WORTH_A_THREAD) == [24]
    assert sizes(1, 2, 100, much) == [1]
