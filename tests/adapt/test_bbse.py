"""Label-shift correction by the server's confusions, against loops, and users whom it helps and must not harm."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dua_lightning.adapt import BBSE, AdaBN, Chain
from dua_lightning.adapt.base import OfServer, asks
from dua_lightning.adapt.bbse import class_shares, confusion
from dua_lightning.errors import InputError
from dua_lightning.tasks import Batch
from tests.adapt.users import EVEN, SKEWED, TRAINED, images, scores, trained
from tests.helpers.nets import TASK, Case, batches, close, equal, law, untouched
from tests.reference import class_shares_loop

SERVER: list[Batch] = [images(600, seed=5)]
FITTED = BBSE(0.01).with_server(TRAINED.build(), trained(), TASK, SERVER)


def drawn(seed: int, n: int, C: int = 3) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, C, generator=source, dtype=torch.float64)
    return logits.softmax(1), torch.randint(C, (n,), generator=source)


@law
@given(seed=st.integers(0, 9), strength=st.sampled_from([1e-3, 0.03, 1.0]))
def test_the_shares_are_the_best_of_a_grid_and_their_slope_is_level_where_they_are_not_0(
    seed: int, strength: float
) -> None:
    probabilities, columns = drawn(seed, 12)
    M = confusion(probabilities, columns)
    close(M, torch.tensor(class_shares_loop.confusion(probabilities, columns), dtype=torch.float64))
    mean = drawn(seed + 1000, 4)[0].mean(0)
    found = class_shares(M, mean, strength)
    assert found.sum() == pytest.approx(1)
    assert found.min() >= 0
    at = class_shares_loop.loss
    best = class_shares_loop.class_shares(M, mean, strength, 20)
    assert (
        at(M.tolist(), mean.tolist(), found.tolist(), strength) <= at(M.tolist(), mean.tolist(), best, strength) + 1e-7
    )
    slope = M.T @ (M @ found - mean) + strength * (found - 1 / 3)
    assert (slope[found > 1e-4] - slope.min()).abs().max() < 1e-3


@law
@given(seed=st.integers(0, 14))
def test_shares_that_explain_the_mean_exactly_are_found_and_even_ones_change_nothing(seed: int) -> None:
    probabilities, columns = drawn(seed, 60)
    M = confusion(probabilities, columns) + 2 * torch.eye(3)
    shares = torch.tensor([0.6, 0.3, 0.1]).double()
    close(class_shares(M, M @ shares, 1e-9), shares, 1e-3)
    even = torch.full((3,), 1 / 3).double()
    close(class_shares(M, M @ even, 0.1), even, 1e-6)


def test_nothing_but_the_biases_of_the_task_changes_and_labels_of_the_user_are_not_read() -> None:
    net, state = TRAINED.build(), trained()
    x, _ = images(60, SKEWED)
    with untouched(net, state):
        after = FITTED(net, state, TASK, batches(x, None, 20))
    assert {name for name in state if not torch.equal(after[name], state[name])} == {"head.bias"}
    others = torch.ones(len(state["head.bias"]), dtype=torch.bool)
    others[TASK.classes] = False
    assert torch.equal(after["head.bias"][others], state["head.bias"][others])
    equal(FITTED(net, state, TASK, [(x, object())]), FITTED(net, state, TASK, [(x, None)]))


def test_it_helps_a_user_of_few_classes_and_does_not_harm_one_of_all() -> None:
    before, after = scores(FITTED, SKEWED, shifted=False)
    assert after > before + 2
    before, after = scores(FITTED, EVEN, shifted=False)
    assert after > before - 1
    chain = Chain([AdaBN(), FITTED])
    before, after = scores(chain, EVEN, shifted=True)
    assert after > before + 10


def test_a_chain_hands_the_server_on_and_says_that_it_asks() -> None:
    chain = Chain([AdaBN(), BBSE(0.01)])
    assert asks(chain, OfServer)
    assert not asks(Chain([AdaBN()]), OfServer)
    informed = chain.with_server(TRAINED.build(), trained(), TASK, SERVER)
    close(informed.steps[1].confusions, FITTED.confusions)


def test_what_it_cannot_use_is_an_input_error() -> None:
    net = TRAINED.build()
    with pytest.raises(InputError, match=f"confusions of task {TASK.name}"):
        BBSE()(net, trained(), TASK, SERVER)
    with pytest.raises(InputError, match="head is a linear layer with a bias"):
        BBSE().check(Case("plain", (3,), lambda _: nn.Sequential(nn.Linear(3, 3))).build())
    for setting in ({"strength": 0.0}, {"floor": float("inf")}):
        with pytest.raises(InputError, match="of BBSE is positive and finite"):
            BBSE(**setting)
