"""Merges of changes from the common start: task arithmetic, TIES and MagMax."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dua_lightning.errors import InputError
from dua_lightning.merge import TIES, MagMax, Mean, Merge, TaskArithmetic
from dua_lightning.params import State, body_names, loaded
from dua_lightning.tasks import Expert, Task
from tests.helpers.nets import BATCH_NORM, CASES, PLAIN, TIED, Case, close, equal, law, untouched
from tests.reference.merge_loops import magmax, ties

TASKS = [Task(f"t{k}", slice(2 * k, 2 * k + 2)) for k in range(3)]
MERGES = pytest.mark.parametrize("merge", [TaskArithmetic(), TIES(), MagMax()], ids=["arithmetic", "ties", "magmax"])
MERGED = [param for param in CASES if param.values[0] is not PLAIN]
"""Networks with a head of their own."""

changes = st.lists(st.floats(-4, 4).map(lambda x: round(x, 3)), min_size=6, max_size=6)
drawn = st.lists(changes.map(lambda row: torch.tensor(row, dtype=torch.float64)), min_size=1, max_size=4)


def merged(merge: Merge, taus: list[Tensor], start: Tensor | None = None) -> Tensor:
    """The step that a merge makes from the start for flat changes, cut into two weights."""
    start = torch.zeros(6, dtype=torch.float64) if start is None else start
    experts = [Expert(Task(f"t{k}", slice(0, 2)), state(start + tau)) for k, tau in enumerate(taus)]
    model = merge(experts, [], state(start))
    return torch.cat([model["t0"]["a"].flatten(), model["t0"]["b"]]) - start


def state(flat: Tensor) -> State:
    return {"a": flat[:4].view(2, 2), "b": flat[4:], "head.bias": flat[:1]}


def distinct(taus: list[Tensor]) -> list[Tensor]:
    """The changes with no two of one magnitude, between which a merge may choose."""
    return [tau + 1e-5 * (torch.arange(6) + 1 + 6 * k) * tau.sign() for k, tau in enumerate(taus)]


@law
@given(drawn, st.floats(-2, 2))
def test_task_arithmetic_is_the_scaled_sum_and_the_mean_at_one_of_their_number(
    taus: list[Tensor], scale: float
) -> None:
    torch.testing.assert_close(merged(TaskArithmetic(scale), taus), scale * sum(taus), rtol=0, atol=1e-12)
    mean = sum(taus) / len(taus)
    torch.testing.assert_close(merged(TaskArithmetic(1 / len(taus)), taus), mean, rtol=0, atol=1e-12)


@law
@given(drawn, st.sampled_from([0.2, 0.5, 0.7, 1.0]))
def test_ties_is_its_loop(taus: list[Tensor], keep: float) -> None:
    taus = distinct(taus)
    torch.testing.assert_close(merged(TIES(keep), taus), ties(taus, keep), rtol=0, atol=1e-12)
    torch.testing.assert_close(merged(TIES(keep, 0.5), taus), ties(taus, keep) / 2, rtol=0, atol=1e-12)


@law
@given(drawn)
def test_magmax_is_its_loop(taus: list[Tensor]) -> None:
    taus = distinct(taus)
    torch.testing.assert_close(merged(MagMax(1.0), taus), magmax(taus), rtol=0, atol=1e-12)
    torch.testing.assert_close(merged(MagMax(), taus), magmax(taus) / 2, rtol=0, atol=1e-12)


@law
@given(drawn, st.permutations(range(4)))
def test_the_order_of_the_experts_does_not_matter(taus: list[Tensor], order: list[int]) -> None:
    taus = distinct(taus)
    other = [taus[k] for k in order if k < len(taus)]
    for merge in (TaskArithmetic(), TIES(), MagMax()):
        torch.testing.assert_close(merged(merge, other), merged(merge, taus), rtol=0, atol=1e-12)


def test_a_single_expert_and_experts_that_agree_are_reached_at_a_scale_of_1() -> None:
    tau = torch.tensor([3.0, -1.0, 2.0, 0.0, 1e-20, -5.0])
    for count in (1, 3):
        for merge in (TaskArithmetic(1 / count), TIES(1.0), MagMax(1.0)):
            close(merged(merge, [tau] * count, torch.zeros(6)), tau, 1e-6)


def test_the_trimming_of_ties_counts_all_weights_together() -> None:
    tau = torch.tensor([9.0, 8.0, 7.0, 6.0, 1.0, 2.0], dtype=torch.float64)
    equal(merged(TIES(0.5), [tau]), tau.where(tau >= 7, torch.zeros_like(tau)))


@MERGES
@pytest.mark.parametrize("case", MERGED)
def test_it_starts_from_the_common_start_and_leaves_head_and_statistics_to_each_task(merge: Merge, case: Case) -> None:
    start = case.expert(7).state
    experts = [case.expert(seed, task) for seed, task in enumerate(TASKS, 1)]
    with untouched(case.build(), start):
        model = merge(experts, [], start)
    body = set(body_names(case.build()))
    for expert in experts:
        own = model[expert.task.name]
        equal({n: t for n, t in own.items() if n not in body}, {n: t for n, t in expert.state.items() if n not in body})
        assert own.keys() == expert.state.keys()
    # Nobody has changed anything.
    same = [Expert(task, start) for task in TASKS]
    close(merge(same, [], start)["t1"], start)


@MERGES
def test_ties_between_weights_are_kept(merge: Merge) -> None:
    experts = [TIED.expert(seed, task) for seed, task in enumerate(TASKS, 1)]
    for found in merge(experts, [], TIED.expert(7).state).values():
        equal(loaded(TIED.build(), found).state_dict(), dict(found))


@MERGES
def test_a_start_or_an_expert_of_another_network_is_an_input_error(merge: Merge) -> None:
    experts = [BATCH_NORM.expert(seed, task) for seed, task in enumerate(TASKS)]
    start = BATCH_NORM.expert(7).state
    name = "body.0.weight"
    with pytest.raises(InputError, match=rf"the start lacks {name}"):
        merge(experts, [], {key: tensor for key, tensor in start.items() if key != name})
    with pytest.raises(InputError, match=rf"the expert of task t0 has {name} \(3, 2, 3, 3\), the start \(1,\)"):
        merge(experts, [], start | {name: torch.ones(1)})
    bad = experts[2].state | {name: experts[2].state[name] / 0}
    with pytest.raises(InputError, match=rf"the merged {name} is not finite: the expert of task t2"):
        merge([*experts[:2], Expert(TASKS[2], bad)], [], start)


@pytest.mark.parametrize("kind", [TaskArithmetic, TIES, MagMax])
def test_a_scale_is_a_finite_number(kind: type) -> None:
    for scale in (float("nan"), float("inf")):
        with pytest.raises(InputError, match="is a finite number"):
            kind(scale=scale)


def test_ties_keeps_some() -> None:
    for keep in (0, 1.1, float("nan")):
        with pytest.raises(InputError, match="more than 0 and at most 1"):
            TIES(keep)


def test_the_mean_is_task_arithmetic_at_one_third_of_three() -> None:
    experts = [BATCH_NORM.expert(seed, task) for seed, task in enumerate(TASKS)]
    close(TaskArithmetic(1 / 3)(experts, [], BATCH_NORM.expert(7).state), Mean()(experts, [], {}), 1e-7)
