"""The Fisher against its loops: true labels exactly, sampled labels exactly for given draws and on average."""

from functools import partial

import pytest
import torch

from dua_lightning.errors import InputError
from dua_lightning.importance import FIM, fim
from dua_lightning.importance.persample import mean_over_samples
from dua_lightning.streams import generator
from dua_lightning.tasks import Task
from tests.helpers.nets import CASES, MLP, TASK, Case, batches, close, equal, labels
from tests.reference.fim_loop import fim_expected, fim_sampled, fim_true

N = 6


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("n", [1, N])
def test_true_labels_give_the_mean_squared_gradient_of_the_log_likelihood(case: Case, n: int) -> None:
    net, x, y = case.build(), case.images(n), labels(n)
    close(FIM()(net, case.expert(), batches(x, y, 4)), fim_true(net, case.expert(), x, y))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", [0, 5])
def test_sampled_labels_invert_the_softmax_at_the_numbers_of_the_tasks_stream(case: Case, seed: int) -> None:
    net, x = case.build(), case.images(N)
    uniforms = torch.rand(N, generator=generator(seed, "labels", TASK.name), dtype=torch.float64).tolist()
    actual = FIM("sampled", seed)(net, case.expert(), batches(x, None, 4))
    close(actual, fim_sampled(net, case.expert(), x, uniforms))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", range(1, N))
def test_sampled_labels_do_not_depend_on_batches(case: Case, size: int) -> None:
    x = case.images(N)
    whole = FIM("sampled")(case.build(), case.expert(), [(x, None)])
    close(FIM("sampled")(case.build(), case.expert(), batches(x, None, size)), whole)


@pytest.mark.parametrize("importance", [FIM(), FIM("sampled")], ids=["true", "sampled"])
def test_the_memory_of_a_pass_does_not_matter(importance: FIM, monkeypatch: pytest.MonkeyPatch) -> None:
    data = batches(MLP.images(N), labels(N), 4)
    whole = importance(MLP.build(), MLP.expert(), data)
    monkeypatch.setattr(fim, "mean_over_samples", partial(mean_over_samples, memory=1))
    close(importance(MLP.build(), MLP.expert(), data), whole)


def test_sampled_labels_give_the_exact_fisher_on_average() -> None:
    x, often = MLP.images(3), 200
    expected = fim_expected(MLP.build(), MLP.expert(), x)
    data = [(x.repeat(often, 1, 1), None)]
    seeds = range(50)
    drawn = [FIM("sampled", seed)(MLP.build(), MLP.expert(), data) for seed in seeds]
    for name, exact in expected.items():
        mean = sum(one[name] for one in drawn) / len(seeds)
        torch.testing.assert_close(mean, exact, rtol=0.03, atol=0.003 * float(exact.max()))


def test_sampled_labels_need_no_labels_and_read_none() -> None:
    x = MLP.images(N)
    without = FIM("sampled")(MLP.build(), MLP.expert(), [(x, None)])
    equal(FIM("sampled")(MLP.build(), MLP.expert(), [(x, labels(N))]), without)
    assert FIM("sampled").needs_labels is False


def test_sampled_labels_are_drawn_anew_for_another_seed_or_task_and_alike_for_the_same() -> None:
    x, name = MLP.images(N), "body.1.weight"
    one, again, other_seed = (FIM("sampled", s)(MLP.build(), MLP.expert(), [(x, None)])[name] for s in (0, 0, 1))
    other_task = FIM("sampled")(MLP.build(), MLP.expert(task=Task("other", TASK.classes)), [(x, None)])[name]
    equal(one, again)
    assert not torch.allclose(one, other_seed)
    assert not torch.allclose(one, other_task)


def test_sampling_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    FIM("sampled")(MLP.build(), MLP.expert(), [(MLP.images(N), None)])
    assert torch.equal(torch.get_rng_state(), before)


def test_true_labels_that_are_missing_are_an_input_error() -> None:
    assert FIM().needs_labels is True
    with pytest.raises(InputError, match="needs labels"):
        FIM()(MLP.build(), MLP.expert(), [(MLP.images(2), labels(2)), (MLP.images(2), None)])


def test_other_labels_than_true_or_sampled_are_an_input_error() -> None:
    with pytest.raises(InputError, match="'false'"):
        FIM("false")


def test_a_single_class_has_no_information() -> None:
    only = MLP.expert(task=Task("one", slice(3, 4)))
    for importance in (FIM(), FIM("sampled")):
        omega = importance(MLP.build(), only, [(MLP.images(2), torch.tensor([3, 3]))])
        assert all(float(o.abs().max()) == 0 for o in omega.values())
