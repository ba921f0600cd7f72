"""The compiled sum over samples, against the same sums written out."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dua_lightning.importance.rules import Power
from dua_lightning.kernels import convolution as kernel
from tests.helpers.nets import close

ROOT = Path(__file__).parents[2]
SIZES = [(64, 96, 16, 3), (70, 13, 9, 4), (5, 7, 4, 2), (1, 1, 1, 1)]
"""Outputs, inputs, positions and images: whole tiles, more than tiles, less than a tile, and one number."""
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
    monkeypatch.setattr(kernel, "TILES", 2)
    monkeypatch.setattr(kernel, "PACKED_BYTES", 1)
    try:
        torch.set_num_threads(3)
        assert torch.equal(added(arguments, power), before)
    finally:
        torch.set_num_threads(threads)


def test_a_processor_of_narrower_vectors_computes_the_same() -> None:
    """Told that there is nothing wider, numba compiles for what every 64-bit processor of the kind has."""
    lines = """
        import torch
        from dua_lightning.kernels import convolution as kernel
        from tests.kernels.test_convolution import SIZES, added, case, close, written_out
        assert not kernel.WIDE
        for sizes in SIZES:
            arguments = case(sizes, torch.float64)
            for power in (1, 2):
                close({"total": added(arguments, power)}, {"total": written_out(*arguments, power)})
    """
    environment = os.environ | {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    subprocess.run([sys.executable, "-c", textwrap.dedent(lines)], check=True, cwd=ROOT, env=environment)
