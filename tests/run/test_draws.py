"""A result keeps every bit in the store."""

import math

import numpy as np
import torch

from dua_lightning.adapt.cost import Cost
from dua_lightning.run.draws import Result
from tests.helpers import tiny


def test_a_result_comes_back_from_tensors_bit_for_bit() -> None:
    R = np.array([[100 / 3, math.nan], [1e-300, 99.9]])
    a, b, _ = tasks = tiny.tasks()
    costs = [(b, Cost(2**40 + 1, 0, 0.1, math.nan)), (a, Cost(0, 7, 1e-9, -5.0)), (b, Cost(1, 2, 3.0, 4.0))]
    found = Result.of(Result(R, costs).tensors(tasks), tasks)
    assert found.R.tobytes() == R.tobytes()
    assert repr(found.costs) == repr(costs)


def test_a_result_without_costs_has_none() -> None:
    tensors = Result(np.ones((1, 1)), []).tensors(tiny.tasks())
    assert all(tensor.dtype in (torch.float64, torch.int64) for tensor in tensors.values())
    assert Result.of(tensors, tiny.tasks()).costs == []
