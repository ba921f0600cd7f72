"""The plain mean of the experts, which is eq. (1) where every weight matters the same."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dua_lightning.errors import InputError
from dua_lightning.importance import Uniform
from dua_lightning.merge import Mean, Mode
from dua_lightning.merge.base import shared
from dua_lightning.params import body_names
from dua_lightning.tasks import Expert, Task
from tests.helpers.nets import CASES, Case, close, equal, law, untouched

TASKS = [Task(f"t{k}", slice(2 * k, 2 * k + 2)) for k in range(3)]


@pytest.mark.parametrize("case", CASES)
def test_it_is_mode_with_priors_of_uniform_for_every_kind_of_network(case: Case) -> None:
    net = case.build()
    tasks = TASKS if hasattr(net, "head") else [Task(task.name, slice(0, 6)) for task in TASKS]
    experts = [case.expert(seed, task) for seed, task in enumerate(tasks)]
    priors = [Uniform()(net, expert, []) for expert in experts]
    assert shared(net.state_dict()) == list(body_names(net))
    with untouched(net, experts[0].state):
        close(Mean()(experts, [], {}), Mode()(experts, priors, {}))


@pytest.mark.parametrize(("dtype", "most"), [(torch.float16, 65504), (torch.bfloat16, 1e38)])
def test_sums_of_halves_neither_overflow_nor_round(dtype: torch.dtype, most: float) -> None:
    values = [torch.tensor(theta, dtype=dtype) for theta in ([most, 1.0], [most, 1e-3], [most, 1e-3])]
    experts = [Expert(task, {"w": theta, "head": theta}) for task, theta in zip(TASKS, values, strict=True)]
    exact = sum(theta.double() for theta in values) / 3
    equal(Mean()(experts, [], {})["t0"]["w"], exact.to(dtype))


def test_experts_of_different_shapes_are_an_input_error() -> None:
    experts = [Expert(task, {"w": torch.ones(size)}) for task, size in zip(TASKS, (2, 2, 3), strict=True)]
    with pytest.raises(InputError, match=r"task t2 has w \(3,\), the first expert \(2,\)"):
        Mean()(experts, [], {})


@law
@given(st.lists(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3), min_size=1, max_size=5))
def test_a_weight_is_the_sum_over_experts_by_their_number_and_the_head_is_each_tasks_own(values: list[list[float]]):
    names = [f"t{k}" for k in range(len(values))]
    experts = [
        type(
            "E",
            (),
            {"task": Task(name, slice(k, k + 1)), "state": {"w": torch.tensor(v), "head.bias": torch.tensor(k)}},
        )
        for k, (name, v) in enumerate(zip(names, values, strict=True))
    ]
    model = Mean()(experts, [], {})
    for k, name in enumerate(names):
        mean = [sum(of_weight) / len(values) for of_weight in zip(*values, strict=True)]
        torch.testing.assert_close(model[name]["w"], torch.tensor(mean), rtol=1e-5, atol=1e-1)
        equal(model[name]["head.bias"], torch.tensor(k))
