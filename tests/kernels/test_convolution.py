"""The compiled sum over samples, against the same sums written out."""

import pytest
import torch
from torch import Tensor

from dua_lightning.importance.rules import Power
from dua_lightning.kernels import convolution as kernel
from tests.helpers.nets import close

SIZES = [(64, 96, 16, 3), (70, 13, 9, 4), (5, 7, 4, 2), (1, 1, 1, 1)]
"""Outputs, inputs, positions and images: whole steps, more than whole steps, and one number of each."""
TYPES = [(torch.float64, 1e-12), (torch.float32, 1e-5)]
POWERS: list[Power] = [1, 2]

Case = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def case(sizes: tuple[int, int, int, int], dtype: torch.dtype) -> Case:
    """The arguments of `add_` but for the power; the total is not 0."""
    outputs, inputs, positions, n = sizes
    stream = torch.Generator().manual_seed(0)
    total = torch.rand(outputs, inputs, generator=stream, dtype=dtype)
    a = torch.randn(n, 50, generator=stream, dtype=dtype)
    d = torch.randn(n, outputs, positions, generator=stream, dtype=dtype)
    bases, offsets = torch.randint(40, (inputs,), generator=stream), torch.randint(11, (positions,), generator=stream)
    return total, a, bases, offsets, d


def written_out(total: Tensor, a: Tensor, bases: Tensor, offsets: Tensor, d: Tensor, power: Power) -> Tensor:
    return total + sum((d_i @ a_i[bases + offsets[:, None]]).abs() ** power for a_i, d_i in zip(a, d, strict=True))


def added(arguments: Case, power: Power) -> Tensor:
    total = arguments[0].clone()
    kernel.add_(total, *arguments[1:], power)
    return total


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize(("dtype", "error"), TYPES)
@pytest.mark.parametrize("power", POWERS)
def test_it_adds_the_power_of_each_samples_gradient(
    sizes: tuple[int, int, int, int], dtype: torch.dtype, error: float, power: Power
) -> None:
    arguments = case(sizes, dtype)
    close({"total": added(arguments, power)}, {"total": written_out(*arguments, power)}, error)


@pytest.mark.parametrize("power", POWERS)
def test_the_bits_depend_neither_on_threads_nor_on_how_the_work_is_cut(
    power: Power, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = case((70, 50, 9, 4), torch.float32)
    before, threads = added(arguments, power), torch.get_num_threads()
    monkeypatch.setattr(kernel, "SHARE", 2 * kernel.STEP)
    try:
        torch.set_num_threads(3)
        assert torch.equal(added(arguments, power), before)
    finally:
        torch.set_num_threads(threads)
