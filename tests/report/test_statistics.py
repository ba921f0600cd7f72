"""Intervals, tests and their correction against slow oracles."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dua_lightning.report.statistics import holm, interval, needed, p_value
from tests.reference import statistics_loops

CASES = [
    [83.2, 81.1, 85.4],
    [0.1, -0.2],
    [1.0, 2.0, 4.0, 8.0, 16.0],
    [50.0 + math.sin(n) for n in range(12)],
]


@pytest.mark.parametrize("values", CASES, ids=len)
def test_the_interval_holds_95_percent_of_students_density(values: list[float]) -> None:
    found = interval(values)
    assert found.mean == pytest.approx(sum(values) / len(values))
    assert found.half == pytest.approx(statistics_loops.half(values), rel=1e-5)


@pytest.mark.parametrize("values", CASES, ids=len)
def test_the_p_value_is_the_area_outside(values: list[float]) -> None:
    if len(values) < 3:
        assert math.isnan(p_value(values)), "of two values no test is made"
    else:
        assert p_value([value - 1 for value in values]) == pytest.approx(
            statistics_loops.p_value([value - 1 for value in values]), abs=1e-6
        )


def test_what_is_not_defined_is_nan() -> None:
    assert math.isnan(interval([]).mean)
    assert math.isnan(interval([math.nan, math.nan]).mean)
    assert (interval([3.0]).mean, math.isnan(interval([3.0]).half)) == (3.0, True)
    assert interval([1.0, math.nan, 3.0]).mean == 2.0
    assert interval([2.0, 2.0]).half == 0.0
    assert math.isnan(p_value([]))
    assert math.isnan(p_value([0.5, 0.5, 0.5 + 1e-12])), "differences that are all alike have no spread to test by"


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.lists(st.floats(0, 1), max_size=8), st.floats(0.001, 0.999))
def test_a_corrected_p_value_says_what_holms_procedure_rejects(p_values: list[float], level: float) -> None:
    corrected = holm(p_values)
    # At a level that is a corrected p-value itself rounding decides.
    if all(abs(p - level) > 1e-9 for p in corrected):
        assert {place for place, p in enumerate(corrected) if p < level} == statistics_loops.rejected(p_values, level)


def test_tests_that_were_not_made_do_not_count() -> None:
    first, nothing, second = holm([0.01, math.nan, 0.04])
    assert (first, second) == (0.02, 0.04)
    assert math.isnan(nothing)


@pytest.mark.parametrize(("mean", "deviation"), [(1.0, 1.0), (-4.9, 3.5), (0.5, 4.0), (30.0, 1.0)])
def test_so_many_values_are_needed_and_one_less_is_too_few(mean: float, deviation: float) -> None:
    def half(n: int) -> float:
        """Half the interval of n values of this very deviation."""
        values = np.resize([-1.0, 1.0], n) if n % 2 == 0 else np.append(np.resize([-1.0, 1.0], n - 1), 0.0)
        return float(interval(values / values.std(ddof=1) * deviation).half)

    n = needed(mean, deviation, 2)
    assert half(n) < abs(mean)
    assert n == 2 or half(n - 1) >= abs(mean)
    assert needed(mean, deviation, n + 5) == n + 5
