"""Every task keeps its own expert."""

import pytest

from dua_lightning.merge import Each
from dua_lightning.tasks import Task
from tests.helpers.nets import MLP


@pytest.mark.parametrize("count", [1, 3])
def test_every_task_gets_its_own_state_and_nothing_else_is_read(count: int) -> None:
    experts = [MLP.expert(seed, Task(f"t{seed}", slice(seed, seed + 1))) for seed in range(count)]
    for priors in ([], [object()] * count):
        model = Each()(experts, priors, {})
        assert list(model) == [f"t{t}" for t in range(count)]
        assert all(model[expert.task.name] is expert.state for expert in experts)
