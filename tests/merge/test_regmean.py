"""RegMean: the formula, and its laws."""

import pytest
import torch

from dua_lightning.errors import InputError
from dua_lightning.importance import MAS, Gram
from dua_lightning.merge import Mean, RegMean
from dua_lightning.params import loaded
from dua_lightning.tasks import Expert, Prior, Task
from tests.helpers.nets import CASES, MLP, PLAIN, TIED, Case, close, equal, untouched
from tests.reference.merge_loops import regmean

TASKS = [Task(f"t{k}", slice(2 * k, 2 * k + 2)) for k in range(3)]
MERGED = [param for param in CASES if param.values[0] is not PLAIN]
"""Networks with a head of their own."""


def experts_of(case: Case) -> list[Expert]:
    return [case.expert(seed, task) for seed, task in enumerate(TASKS, 1)]


def priors_of(case: Case, images: int = 40) -> list[Prior]:
    experts = experts_of(case)
    return [Gram()(case.build(), e, [(case.images(images, seed), None)]) for seed, e in enumerate(experts)]


@pytest.mark.parametrize("case", MERGED)
@pytest.mark.parametrize("shrinkage", [0.9, 0.0])
def test_it_is_the_printed_formula_and_the_mean_of_all_other_weights(case: Case, shrinkage: float) -> None:
    experts, priors = experts_of(case), priors_of(case)
    with untouched(case.build(), experts[0].state):
        model = RegMean(shrinkage)(experts, priors, {})
    mean = Mean()(experts, [], {})
    assert model.keys() == mean.keys()
    for task, state in model.items():
        for name, tensor in state.items():
            if name in priors[0]:
                thetas, grams = [e.state[name] for e in experts], [prior[name] for prior in priors]
                close(tensor, regmean(thetas, grams, shrinkage), 1e-6)
                assert not torch.allclose(tensor, mean[task][name])
            else:
                equal(tensor, mean[task][name])


def test_experts_that_agree_are_kept_whatever_their_priors() -> None:
    expert, priors = MLP.expert(), priors_of(MLP)
    for state in RegMean()([expert] * 3, priors, {}).values():
        close(state, expert.state, 1e-7)


def test_the_scale_of_all_priors_does_not_matter_and_a_far_larger_one_wins() -> None:
    experts, priors = experts_of(MLP), priors_of(MLP)
    model = RegMean()(experts, priors, {})["t0"]
    scaled = RegMean()(experts, [{name: 7 * g for name, g in prior.items()} for prior in priors], {})["t0"]
    close(scaled, model, 1e-7)
    first = [{name: (1e12 if k == 1 else 1) * g for name, g in prior.items()} for k, prior in enumerate(priors)]
    won = RegMean()(experts, first, {})["t0"]
    close({name: won[name] for name in priors[0]}, {name: experts[1].state[name] for name in priors[0]}, 1e-4)


def test_an_input_that_is_always_0_keeps_the_mean() -> None:
    experts, priors = experts_of(MLP), priors_of(MLP)
    for prior in priors:
        prior["body.1.weight"][:, 2] = 0
        prior["body.1.weight"][:, :, 2] = 0
    mean, found = (merge["t0"]["body.1.weight"] for merge in (Mean()(experts, [], {}), RegMean()(experts, priors, {})))
    close(found[:, 2], mean[:, 2])
    assert not torch.allclose(found[:, 1], mean[:, 1])
    nothing = [{name: torch.zeros_like(g) for name, g in prior.items()} for prior in priors]
    close(RegMean()(experts, nothing, {}), Mean()(experts, [], {}))


def test_fewer_images_than_inputs_are_enough() -> None:
    assert (
        torch.stack([t.sum() for t in RegMean()(experts_of(MLP), priors_of(MLP, 1), {})["t1"].values()])
        .isfinite()
        .all()
    )


def test_ties_are_kept() -> None:
    for state in RegMean()(experts_of(TIED), priors_of(TIED), {}).values():
        equal(loaded(TIED.build(), state).state_dict(), dict(state))


def test_priors_and_numbers_that_cannot_be_used_are_input_errors() -> None:
    experts, priors = experts_of(MLP), priors_of(MLP)
    of_weights = [MAS()(MLP.build(), expert, [(MLP.images(2), None)]) for expert in experts]
    broken = [{name: g / 0 for name, g in prior.items()} for prior in priors]
    for wrong in (of_weights, broken, [priors[0], {}, priors[2]]):
        with pytest.raises(InputError, match=r"RegMean needs the Gram matrices .*; use importance=gram"):
            RegMean()(experts, wrong, {})
    with pytest.raises(InputError, match="3 experts, 2 priors"):
        RegMean()(experts, priors[:2], {})
    for shrinkage in (1.0, -0.1, float("nan")):
        with pytest.raises(InputError, match="at least 0 and less than 1"):
            RegMean(shrinkage)
