"""The engine against one backward pass for each image, on random networks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dua_lightning.importance import FIM, MAS, rules
from dua_lightning.importance.persample import mean_over_samples
from dua_lightning.importance.rules import Power
from dua_lightning.params import Params
from dua_lightning.tasks import Expert
from tests.helpers.nets import TASK, Case, batches, labels, law
from tests.importance.drawn import cases
from tests.importance.engine import fallbacks
from tests.reference.fim_loop import fim_true
from tests.reference.mas_loop import mas
from tests.reference.power_loop import mean_power


def near(actual: Params, expected: Params, tolerance: float) -> None:
    """Up to rounding, which for an entry whose terms cancel is that of the terms."""
    assert actual.keys() == expected.keys()
    for name, o in expected.items():
        torch.testing.assert_close(actual[name].double(), o, rtol=tolerance, atol=tolerance * largest(expected))


def largest(omega: Params) -> float:
    return max(float(o.abs().max()) for o in omega.values())


def wave(logits: Tensor, _: Tensor) -> Tensor:
    return logits.sin().sum(-1)


COMPILED_FROM = st.sampled_from([1, rules.COMPILED_FROM])
"""With 1 the compiled loop serves every convolution that it can; the networks here are too small for it."""


@law
@given(cases(), st.integers(1, 3), st.integers(1, 3), COMPILED_FROM)
def test_it_is_the_loop_over_images(case: Case, n: int, size: int, compiled_from: int) -> None:
    net, expert, x, y = case.build(), case.expert(), case.images(n), labels(n)
    with fallbacks() as lines, pytest.MonkeyPatch.context() as patch:
        patch.setattr(rules, "COMPILED_FROM", compiled_from)
        omegas = [importance(net, expert, batches(x, y, size)) for importance in (MAS(), FIM())]
    assert not lines
    near(omegas[0], mas(net, expert, x), 1e-10)
    near(omegas[1], fim_true(net, expert, x, y), 1e-10)


@law
@given(cases(smooth=True), st.integers(1, 3), st.sampled_from([1, 2]), COMPILED_FROM)
def test_float32_is_the_loop_in_float64_up_to_its_rounding(
    case: Case, n: int, power: Power, compiled_from: int
) -> None:
    """A point where no kink and no pooled maximum chooses a side by it."""
    net, x, state = case.build().float(), case.images(n).float(), case.expert().state
    single = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    with fallbacks() as lines, pytest.MonkeyPatch.context() as patch:
        patch.setattr(rules, "COMPILED_FROM", compiled_from)
        omega = mean_over_samples(net, Expert(TASK, single), [(x, None)], wave, power)
    assert not lines
    assert all(o.dtype == torch.float32 for o in omega.values())
    plain = mean_power(net, Expert(TASK, single), x, wave, power)
    exact = mean_power(net.double(), Expert(TASK, single), x.double(), wave, power)
    # A network may amplify rounding errors; then it does so to those of the loop as well.
    rounding = largest({name: plain[name] - o for name, o in exact.items()}) / (largest(exact) or 1.0)
    near(omega, exact, 1e-5 + 10 * rounding)


@settings(law, max_examples=30)
@given(cases(), st.sampled_from([1, 2]), st.integers(0, 2**16))
def test_the_memory_of_a_pass_does_not_matter(case: Case, power: Power, memory: int) -> None:
    net, expert, data = case.build(), case.expert(), batches(case.images(5), None, 4)
    near(
        mean_over_samples(net, expert, data, wave, power, memory=memory),
        mean_over_samples(net, expert, data, wave, power),
        1e-10,
    )
