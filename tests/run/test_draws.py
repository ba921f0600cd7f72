"""A result keeps every bit in the store, and is computed for the data that it was asked for."""

import math
from collections.abc import Callable, Iterable
from itertools import combinations

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from dua_lightning.__main__ import CONF
from dua_lightning.adapt import BBSE
from dua_lightning.adapt.cost import Cost
from dua_lightning.data.splits import FOR_VALIDATION
from dua_lightning.data.user import UserData
from dua_lightning.errors import InputError
from dua_lightning.importance import MAS, Clipped, averaged
from dua_lightning.merge import LastStatistics, Mean, Mode
from dua_lightning.params import State, body_names
from dua_lightning.run.draws import Draw, Draws, Result
from dua_lightning.run.settings import of_seed
from dua_lightning.store.store import digest
from dua_lightning.tasks import Batch, Expert
from tests.helpers import tiny
from tests.helpers.cli import TINY
from tests.helpers.nets import close, equal


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


def draws(*arguments: str, method: str = "mean_imm") -> Draws:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return Draws(of_seed([compose("config", [*TINY, f"method={method}", *arguments])], 1))


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
    by_another, another = draws("prior=other", method="racl"), ours.benchmark.after(ours.data(draw))
    both = {"user": ours.data(draw).recipe(), "other": another.recipe()}
    assert by_another.pictures(ours.data(draw)) == digest(both)


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


def test_priors_are_measured_on_the_images_of_the_one_who_is_said_to_measure() -> None:
    asked = {prior: draws(f"prior={prior}", method="racl") for prior in ("user", "other", "oracle")}
    one = asked["user"]
    tasks, (row,) = one.benchmark.tasks, one.rows
    experts = [Expert(task, tiny_state(one, seed)) for seed, task in enumerate(tasks)]
    shared = {recipe.key: expert.state for recipe, expert in zip(one.recipes.experts(row), experts, strict=True)}
    mine, next_one = (one.benchmark.users[place].draw(1) for place in (2, 0))

    def merged(batches: Callable[[UserData], Iterable[Batch]], data: UserData) -> list[State]:
        priors = [MAS()(one.net, expert, batches(data.of(expert.task))) for expert in experts]
        return list(Mode()(experts, priors, {}).values())

    expected = {
        "user": merged(UserData.validation_batches, mine),
        "other": merged(UserData.validation_batches, next_one),
        "oracle": merged(UserData.evaluation_batches, mine),
    }
    for prior, of_prior in asked.items():
        states, _ = of_prior.personal(of_prior.rows[0], mine, shared)
        for name in body_names(one.net):
            equal([state[name] for state in states.values()], [state[name] for state in expected[prior]])
    bodies = [of_prior[0]["body.1.weight"] for of_prior in expected.values()]
    assert not any(torch.equal(a, b) for a, b in combinations(bodies, 2))


def tiny_state(found: Draws, seed: int) -> State:
    """A state of the network with other weights."""
    stream = torch.Generator().manual_seed(seed)
    return {name: tensor + torch.randn(tensor.shape, generator=stream) / 10 for name, tensor in found.start.items()}


def test_an_oracle_leaves_out_who_is_not_scored() -> None:
    (row,) = draws("prior=oracle", method="racl").rows
    data = tiny.benchmark().users[0].draw(1)
    nothing = [torch.full((len(images),), FOR_VALIDATION) for images in data.images]
    unscored = UserData(data.user, data.images, data.tasks, 0, halves=nothing)
    assert (Draws.takes(row, data), Draws.takes(row, unscored)) == (True, False)


def test_an_adaptation_of_all_experts_gets_them_and_their_start() -> None:
    found = draws("adapt=adamerging", "adapt.steps=0")
    (row,) = found.rows
    experts = [Expert(task, tiny_state(found, seed)) for seed, task in enumerate(found.benchmark.tasks)]
    shared = {recipe.key: expert.state for recipe, expert in zip(found.recipes.experts(row), experts, strict=True)}
    states, _ = found.personal(row, found.benchmark.users[0].draw(1), shared)
    mean = Mean()(experts, [], found.start)
    for task, state in states.items():
        close(state, mean[task], 1e-5)
    assert row.last_alone
    (result,), _ = found.compute(Draw(0, 1, (0,), digest(found.benchmark.users[0].draw(1).recipe())), shared)
    assert np.isnan(result.R[0]).all()
    assert np.isfinite(result.R[1]).all()


def test_the_server_measures_once_for_all_users_who_are_sent_the_same_model(monkeypatch: pytest.MonkeyPatch) -> None:
    found = draws("adapt=bbse")
    (row,) = found.rows
    states = [tiny_state(found, seed) for seed, _ in enumerate(found.benchmark.tasks)]
    shared = dict(zip((recipe.key for recipe in found.recipes.experts(row)), states, strict=True))
    asked = []
    measure = BBSE.with_server
    monkeypatch.setattr(BBSE, "with_server", lambda self, *given: asked.append(given[2].name) or measure(self, *given))
    final = [found.personal(row, someone.draw(1), shared)[0] for someone in found.benchmark.users[:2]]
    assert asked == [task.name for task in found.benchmark.tasks]
    experts = [Expert(*one) for one in zip(found.benchmark.tasks, states, strict=True)]
    sent = LastStatistics()(found.net, experts, Mean()(experts, [], found.start), [])
    for of_task in found.benchmark.server:
        task, state = of_task.task, sent[of_task.task.name]
        phi = BBSE().with_server(found.net, state, task, of_task.val_dataloader())
        own = found.benchmark.users[1].draw(1).of(task)
        close(final[1][task.name], phi(found.net, state, task, own.validation_batches()), 1e-5)


def test_each_state_that_is_sent_has_what_the_server_measured_on_it() -> None:
    found = draws("adapt=bbse")
    task = found.benchmark.tasks[0]
    one, other = (found._informed(BBSE(), task, tiny_state(found, seed)) for seed in (1, 2))
    assert isinstance(one, BBSE)
    assert isinstance(other, BBSE)
    assert not torch.equal(one.confusions, other.confusions)


def test_a_release_stands_between_a_users_own_prior_and_the_merge() -> None:
    found = draws("release=top_k", "release.share=0", method="racl")
    (row,) = found.rows
    data = found.benchmark.users[0].draw(1)
    experts = [Expert(task, tiny_state(found, seed)) for seed, task in enumerate(found.benchmark.tasks)]
    shared = {recipe.key: expert.state for recipe, expert in zip(found.recipes.experts(row), experts, strict=True)}
    priors = [MAS()(found.net, expert, data.of(expert.task).validation_batches()) for expert in experts]
    merged = Mode()(experts, [averaged(prior, "layer") for prior in priors], {})
    states, _ = found.personal(row, data, shared)
    for task, state in states.items():
        close(state, merged[task], 1e-5)
    (result,), _ = found.compute(Draw(0, 1, (0,), digest(data.recipe())), shared)
    numbers, layers = sum(omega.numel() for omega in priors[0].values()), len(priors[0])
    images = [len(data.of(expert.task).validation) for expert in experts]
    assert [(one.images, one.plain, one.sent) for one in result.sent] == [(n, 4 * numbers, 4 * layers) for n in images]
    again = Result.of(result.tensors(found.benchmark.tasks), found.benchmark.tasks)
    assert repr(again.sent) == repr(result.sent)


def test_priors_that_are_sent_as_measured_leave_no_trace_in_a_result() -> None:
    assert set(Result(np.ones((1, 1)), []).tensors(tiny.tasks())) == {"R", "tasks", "costs", "by_confidence"}
    plain, none = (draws(*choice, method="racl").rows[0] for choice in ((), ("release=bf16", "prior=server")))
    assert (plain.release, none.release, none.release_name) == (None, None, "none")


def test_a_clipped_prior_is_measured_for_the_release_that_asks_for_it_alone() -> None:
    found = draws("release=gaussian", "release.clip=3", "release.sigma=0", method="racl")
    (row,) = found.rows
    assert row.psi == Clipped(MAS(), 3)
    data = found.benchmark.users[0].draw(1)
    keys = {
        choice: draws(*choice.split(), method="racl") for choice in ("release=none", "release=bf16", "release=chain")
    }
    plain = {one.recipes.priors(one.rows[0], data).key for one in keys.values()}
    assert len(plain) == 1
    assert found.recipes.priors(row, data).key not in plain
