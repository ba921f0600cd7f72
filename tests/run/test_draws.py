"""A result keeps every bit in the store, and is computed for the data that it was asked for."""

import math

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from dua_lightning.__main__ import CONF
from dua_lightning.adapt.cost import Cost
from dua_lightning.errors import InputError
from dua_lightning.run.draws import Draw, Draws, Result
from dua_lightning.run.settings import of_seed
from dua_lightning.store.store import digest
from tests.helpers import tiny
from tests.helpers.cli import TINY


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


def draws(*arguments: str) -> Draws:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return Draws(of_seed([compose("config", [*TINY, "method=mean_imm", *arguments])], 1))


def test_simulated_users_stand_in_the_place_of_the_benchmarks_own() -> None:
    made = draws("simulate=both", "simulate.count=2", "data.server_per_class=20").benchmark
    assert [user.user for user in made.users] == ["simulated_1", "simulated_2"]
    sources = {source for data in made.server for source in data.validation.sources.tolist()}
    assert {source for user in made.users for images in user.images for source in images.sources.tolist()} <= sources


def test_a_process_with_other_pictures_than_the_run_began_with_computes_nothing() -> None:
    ours, theirs = draws(), draws("data.user_per_class=5")
    draw = Draw(0, 1, (0,), digest(ours.benchmark.users[0].draw(1).recipe()))
    assert ours.data(draw).user == "mnist"
    with pytest.raises(InputError, match="the pictures have changed since the run began; run again"):
        theirs.compute(draw, {})
    with pytest.raises(InputError, match="the pictures have changed since the run began; run again"):
        # The server's: no expert is shared that was trained on them.
        ours.compute(draw, {"another": {}})


def test_the_digest_of_the_content_is_that_of_everything_results_are_made_of() -> None:
    whole = draws().content()
    assert draws("paths.store_dir=elsewhere").content() == whole
    for change in ("data.user_per_class=5", "data.server_per_class=7", "model.width=9", "adapt=finetune"):
        assert draws(change).content() != whole, change


def test_a_server_with_a_single_validation_picture_cannot_take_statistics_of_one_number() -> None:
    found = draws("model._target_=tests.helpers.nets.rows", "statistics=server")
    found.check_sizes()
    of_task = found.benchmark.server[1]
    of_task.validation = of_task.validation[:1]
    with pytest.raises(
        InputError, match=r"^statistics=server cannot be used: .* single validation picture of task 2-3"
    ):
        found.check_sizes()
