"""Fine-tuning against a plain loop, and its purity."""

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from dua_lightning.adapt import Finetune
from dua_lightning.errors import DivergedError, InputError
from dua_lightning.params import State
from dua_lightning.tasks import Batch
from tests.helpers.nets import (
    BATCH_NORM,
    CLASSES,
    MLP,
    PLAIN,
    TASK,
    TIED,
    Case,
    batches,
    close,
    equal,
    labels,
    untouched,
)

N = 8
DETERMINISTIC = [pytest.param(case, id=case.name) for case in (MLP, BATCH_NORM, PLAIN, TIED)]


class Reshuffled:
    """Batches whose order is another one at every pass."""

    def __init__(self, case: Case, size: int) -> None:
        self.x, self.y, self.size, self.passes = case.images(N), labels(N), size, 0

    def __iter__(self) -> Iterator[Batch]:
        order = torch.randperm(N, generator=torch.Generator().manual_seed(self.passes))
        self.passes += 1
        return iter(batches(self.x[order], self.y[order], self.size))


@torch.no_grad()
def loss(case: Case, state: State, data: list[Batch]) -> float:
    """Mean over images of the task's cross-entropy."""
    net = case.build().eval()
    net.load_state_dict(state)
    x, y = data[0]
    return float(nn.functional.cross_entropy(net(x)[:, TASK.classes], y - TASK.classes.start))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("case", DETERMINISTIC)
def test_finetuning_is_sgd_on_the_tasks_cross_entropy_in_train_mode(case: Case, momentum: float) -> None:
    tuned = Finetune(3, 0.05, momentum)(case.build().eval(), case.expert().state, TASK, Reshuffled(case, 4))

    net, data = case.build(), Reshuffled(case, 4)
    net.load_state_dict(case.expert().state)
    velocity = [torch.zeros_like(p) for p in net.parameters()]
    for _ in range(3):
        for x, y in data:
            likelihood = net(x)[:, 2:5].softmax(1)[range(len(y)), y - 2]
            gradients = torch.autograd.grad(-likelihood.log().mean(), list(net.parameters()))
            with torch.no_grad():
                for p, v, g in zip(net.parameters(), velocity, gradients, strict=True):
                    v.mul_(momentum).add_(g)
                    p.sub_(0.05 * v)
    close(tuned, net.state_dict(), 1e-8)


@pytest.mark.parametrize("case", DETERMINISTIC)
def test_the_loss_on_its_data_falls(case: Case) -> None:
    data = [(case.images(N), labels(N))]
    tuned = Finetune(30, 0.1)(case.build(), case.expert().state, TASK, data)
    assert loss(case, tuned, data) < 0.8 * loss(case, case.expert().state, data)


@pytest.mark.parametrize("case", DETERMINISTIC)
def test_the_network_and_the_state_are_left_alone(case: Case) -> None:
    net, state = case.build(), case.expert().state
    with untouched(net, state):
        tuned = Finetune(2, 0.1)(net, state, TASK, [(case.images(N), labels(N))])
    assert not torch.equal(tuned[next(iter(state))], state[next(iter(state))])


def test_every_parameter_learns_even_where_the_network_was_frozen() -> None:
    net, state = BATCH_NORM.build().requires_grad_(False), BATCH_NORM.expert().state
    tuned = Finetune(1, 0.1)(net, state, TASK, [(BATCH_NORM.images(N), labels(N))])
    before = copy.deepcopy(state)
    # The mean is taken off again by the batch norm behind these two layers, so that their bias has no gradient.
    learn = [name for name, _ in net.named_parameters() if name not in ("body.0.bias", "body.4.bias")]
    assert all(not torch.equal(tuned[name], before[name]) for name in learn)
    assert not any(p.requires_grad for p in net.parameters())


def test_no_epoch_returns_an_equal_state_of_its_own() -> None:
    state = BATCH_NORM.expert().state
    tuned = Finetune(0)(BATCH_NORM.build(), state, TASK, [(BATCH_NORM.images(N), labels(N))])
    equal(tuned, state)
    assert all(tuned[name].data_ptr() != state[name].data_ptr() for name in state)


def test_missing_labels_are_an_input_error() -> None:
    assert Finetune().needs_labels is True
    with pytest.raises(InputError, match="needs labels"):
        Finetune()(MLP.build(), MLP.expert().state, TASK, [(MLP.images(2), labels(2)), (MLP.images(2), None)])


def test_the_papers_settings_are_the_defaults_and_every_network_can_be_finetuned() -> None:
    assert (Finetune().epochs, Finetune().lr, Finetune().momentum) == (10, 5e-4, 0.9)
    Finetune().check(MLP.build())


@pytest.mark.parametrize("wrong", [{"epochs": -1}, {"lr": 0.0}, {"lr": float("nan")}, {"lr": 1e39}])
def test_negative_epochs_or_a_rate_not_above_0_are_an_input_error(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match="got"):
        Finetune(**wrong)


def test_no_image_and_labels_of_another_task_are_input_errors() -> None:
    net = MLP.build()
    with pytest.raises(InputError, match="at least one image"):
        Finetune()(net, net.state_dict(), TASK, [])
    with pytest.raises(InputError, match="classes 2 to 4"):
        Finetune()(net, net.state_dict(), TASK, [(MLP.images(2), torch.tensor([2, 5]))])


def test_dropout_draws_from_the_seed_and_leaves_the_callers_stream_alone() -> None:
    net = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, CLASSES))
    data = [(torch.randn(4, 3), labels(4))]
    before = torch.get_rng_state()
    a, b, c = (Finetune(2, seed=seed)(net, net.state_dict(), TASK, data)["2.weight"] for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(before, torch.get_rng_state())


def test_training_that_diverges_is_refused_whether_it_ends_in_nan_or_in_finite_numbers() -> None:
    x, y = MLP.images(N), labels(N)
    single = {name: tensor.float() for name, tensor in MLP.expert().state.items()}
    with pytest.raises(DivergedError, match=r"fine-tuning on task middle has made NaN or infinity of .* lr=3e"):
        Finetune(9, 3e38, 0.9)(MLP.build().float(), single, TASK, [(x.float(), y)])
    with pytest.raises(DivergedError, match=r"task middle diverged with lr=10000\.0: the loss was .* in its last pass"):
        Finetune(4, 1e4, 0.0)(MLP.build(), MLP.expert().state, TASK, [(x, y)])


def test_what_is_not_the_steps_fault_is_said_to_be_the_images_or_the_models() -> None:
    state, x = MLP.expert().state, MLP.images(N)
    bad = state | {"body.1.weight": torch.full_like(state["body.1.weight"], torch.nan)}
    with pytest.raises(InputError, match=r"since body\.1\.weight of the given model") as error:
        Finetune(1)(MLP.build(), bad, TASK, [(x, labels(N))])
    assert not isinstance(error.value, DivergedError)
    x[3, 0, 0] = torch.inf
    with pytest.raises(InputError, match="an image holds such numbers") as error:
        Finetune(1)(MLP.build(), state, TASK, batches(x, labels(N), 4))
    assert not isinstance(error.value, DivergedError)


def test_a_column_of_another_task_may_be_anything() -> None:
    state = MLP.expert().state
    bias = state["head.bias"].clone()
    bias[0] = torch.nan
    tuned = Finetune(2)(MLP.build(), state | {"head.bias": bias}, TASK, [(MLP.images(N), labels(N))])
    assert tuned["head.bias"].isnan().sum() == 1


def test_a_batch_that_cannot_be_normalised_is_refused() -> None:
    with pytest.raises(InputError, match="a batch of size 1 of task middle cannot be normalised"):
        Finetune()(BATCH_NORM.build(), BATCH_NORM.expert().state, TASK, [(BATCH_NORM.images(1), labels(1))])
