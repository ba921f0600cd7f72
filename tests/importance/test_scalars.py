"""The formulas of derivatives, against autograd."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dua_lightning.importance import scalars
from dua_lightning.importance.scalars import DERIVATIVES, Scalar
from tests.helpers.nets import close, law


@law
@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 99))
@pytest.mark.parametrize("scalar", DERIVATIVES)
def test_a_formula_is_what_autograd_finds(scalar: Scalar, n: int, classes: int, seed: int) -> None:
    stream = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, classes, generator=stream, dtype=torch.float64).requires_grad_()
    sides = torch.randint(classes, (n,), generator=stream)
    if scalar is scalars.log_likelihood_sampled:
        sides = torch.rand(n, generator=stream, dtype=torch.float64)
    (expected,) = torch.autograd.grad(scalar(logits, sides).sum(), logits)
    close(DERIVATIVES[scalar](logits.detach(), sides), expected)
