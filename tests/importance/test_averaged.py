"""Importances of channels, layers and experts: means, by loops, and what a merge makes of them."""

from typing import get_args

import pytest
import torch

from dua_lightning.errors import InputError
from dua_lightning.importance import FIM, MAS, Averaged, averaged
from dua_lightning.importance.averaged import Level
from dua_lightning.merge import Mode
from dua_lightning.params import Params
from dua_lightning.tasks import Task
from tests.helpers.nets import BATCH_NORM, CASES, Case, batches, close, equal, labels, untouched
from tests.reference import averaged_loop

LEVELS = pytest.mark.parametrize("level", get_args(Level))
SHAPES = {"conv": (3, 2, 2, 2), "bias": (3,), "one": (), "table": (2, 5)}


def prior(seed: int = 0) -> Params:
    stream = torch.Generator().manual_seed(seed)
    return {name: torch.rand(shape, generator=stream, dtype=torch.float64) for name, shape in SHAPES.items()}


@LEVELS
def test_it_is_the_mean_over_the_entries_of_a_group(level: Level) -> None:
    close(averaged(prior(), level), averaged_loop.averaged(prior(), level))


@LEVELS
def test_the_sum_is_kept_and_to_average_again_changes_nothing(level: Level) -> None:
    once = averaged(prior(), level)
    close(averaged(once, level), once)
    close(sum(omega.sum() for omega in once.values()), sum(omega.sum() for omega in prior().values()))
    # A coarser mean of a finer mean is the coarser mean.
    close(averaged(once, "expert"), averaged(prior(), "expert"))


def test_each_weight_alone_keeps_its_importance() -> None:
    equal(averaged(prior(), "weight"), prior())


def test_a_shared_number_takes_no_memory() -> None:
    for level, numbers in (("expert", 1), ("layer", 1), ("channel", 3)):
        assert averaged(prior(), level)["conv"].untyped_storage().nbytes() == 8 * numbers


@pytest.mark.parametrize("case", CASES)
@LEVELS
def test_any_importance_can_be_averaged(case: Case, level: Level) -> None:
    x, y = case.images(5), labels(5)
    for of in (MAS(), FIM()):
        psi, net, expert = Averaged(of, level), case.build(), case.expert()
        assert psi.needs_labels == of.needs_labels
        with untouched(net, expert.state):
            found = psi(net, expert, batches(x, y, 3))
        close(found, averaged_loop.averaged(of(case.build(), expert, batches(x, y, 3)), level))


def test_at_the_level_of_experts_eq_1_is_a_mean_with_one_ratio_for_each_expert() -> None:
    experts = [BATCH_NORM.expert(seed, Task(f"t{seed}", slice(0, 6))) for seed in (1, 2, 3)]
    data = [(BATCH_NORM.images(4), None)]
    whole = [MAS()(BATCH_NORM.build(), expert, data) for expert in experts]
    merged = Mode()(experts, [averaged(omega, "expert") for omega in whole], {})["t1"]
    weights = torch.stack([torch.cat([o.flatten() for o in omega.values()]).mean() for omega in whole])
    alpha = weights / weights.sum()
    for name in whole[0]:
        close(merged[name], sum(a * expert.state[name] for a, expert in zip(alpha, experts, strict=True)))


def test_an_unknown_level_is_an_input_error() -> None:
    with pytest.raises(InputError, match="weight, channel, layer, expert, got block"):
        Averaged(MAS(), "block")
