"""The figures read from the accuracy matrix, against their loops."""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dua_lightning.errors import InputError
from dua_lightning.metrics import average_accuracy, forgetting, forgetting_released
from tests.helpers.nets import law
from tests.reference import forgetting_loop

NAN = math.nan
Figure = Callable[[Any], Any]
FIGURES: list[Figure] = [average_accuracy, forgetting, forgetting_released]


@st.composite
def matrices(draw: st.DrawFn, least: int = 1) -> list[list[float]]:
    """Accuracy matrices with nothing measured above the diagonal."""
    n = draw(st.integers(least, 5))
    percent = st.floats(0, 100)
    return [[draw(percent) for _ in range(t + 1)] + [NAN] * (n - t - 1) for t in range(n)]


@law
@given(matrices())
def test_average_accuracy_is_the_mean_of_the_last_row(R: list[list[float]]) -> None:
    assert average_accuracy(R) == pytest.approx(forgetting_loop.average_accuracy(R), abs=1e-9)
    assert isinstance(average_accuracy(R), float)


@law
@given(matrices(least=2))
def test_forgetting_is_the_mean_loss_of_the_earlier_tasks(R: list[list[float]]) -> None:
    expected = forgetting_loop.forgetting(R)
    assert forgetting(R) == pytest.approx(expected, abs=1e-9)
    assert forgetting_released(R) == pytest.approx(expected * (len(R) - 1) / len(R), abs=1e-9)
    assert isinstance(forgetting(R), float)
    assert isinstance(forgetting_released(R), float)


@law
@given(matrices(least=2), st.floats(0, 100))
def test_no_figure_reads_above_the_diagonal_or_the_last_tasks_forgetting(R: list[list[float]], other: float) -> None:
    filled = [[other if math.isnan(a) else a for a in row] for row in R]
    for figure in FIGURES:
        assert figure(filled) == figure(R)
    filled[-1][-1] = other
    assert forgetting(filled) == forgetting(R)


@law
@given(matrices(least=2))
def test_a_model_that_never_changes_forgets_nothing(R: list[list[float]]) -> None:
    assert forgetting([R[-1] for _ in R]) == 0


def test_less_accuracy_is_more_forgetting_and_backward_transfer_is_negative() -> None:
    assert forgetting([[90.0, NAN, NAN], [NAN, 60.0, NAN], [70.0, 50.0, 40.0]]) == 15.0
    assert forgetting_released([[90.0, NAN, NAN], [NAN, 60.0, NAN], [70.0, 50.0, 40.0]]) == 10.0
    assert forgetting([[70.0, NAN], [90.0, 80.0]]) == -20.0


def test_a_single_task_has_an_accuracy_and_no_forgetting() -> None:
    assert average_accuracy([[80.0]]) == 80.0
    assert math.isnan(forgetting([[80.0]]))
    assert math.isnan(forgetting_released([[80.0]]))


def test_joint_training_has_an_accuracy_and_no_forgetting() -> None:
    R = [[NAN, NAN, NAN], [NAN, NAN, NAN], [70.0, 80.0, 90.0]]
    assert average_accuracy(R) == 80.0
    assert math.isnan(forgetting(R))
    assert math.isnan(forgetting_released(R))


@pytest.mark.parametrize("shape", [(4,), (2, 3), (1,), (0,)])
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("figure", FIGURES)
def test_a_stack_is_read_matrix_by_matrix(figure: Figure, n: int, shape: tuple[int, ...]) -> None:
    R = np.random.default_rng(0).uniform(0, 100, (*shape, n, n))
    expected = np.array([figure(one) for one in R.reshape(-1, n, n)]).reshape(shape)
    np.testing.assert_allclose(figure(R), expected, rtol=1e-12)
    assert figure(R).shape == shape


@pytest.mark.parametrize("figure", FIGURES)
def test_lists_arrays_and_tensors_are_accepted_and_not_changed(figure: Figure) -> None:
    rows = [[90, 0, 0], [80, 70, 0], [75, 65, 55]]
    expected = figure(rows)
    for R in (np.array(rows), np.array(rows, dtype=np.float32), torch.tensor(rows), torch.tensor(rows).double()):
        before = copy.deepcopy(R)
        assert figure(R) == expected
        assert (before == R).all()


@pytest.mark.parametrize("shape", [(), (2,), (2, 3), (3, 2), (0, 0), (4, 2, 3), (2, 0, 0)])
@pytest.mark.parametrize("figure", FIGURES)
def test_what_is_not_a_square_matrix_is_an_input_error(figure: Figure, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"\(\.\.\., N, N\)"):
        figure(np.zeros(shape))


@pytest.mark.parametrize("bad", [[[90.0], [80.0, 70.0]], "accuracy", [["a", "b"], ["c", "d"]]])
def test_what_is_not_made_of_numbers_is_an_input_error(bad: object) -> None:
    with pytest.raises(InputError, match="accuracy matrix"):
        average_accuracy(bad)


def test_a_tensor_with_history_is_read_as_any_other() -> None:
    assert average_accuracy(torch.tensor([[90.0, 0.0], [80.0, 70.0]], requires_grad=True)) == 75.0
