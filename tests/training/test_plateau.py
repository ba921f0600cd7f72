"""The paper's learning-rate rule, and which epoch is the best."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dua_lightning.data.images import images
from dua_lightning.data.server import ServerTask
from dua_lightning.errors import InputError
from dua_lightning.regularise import NoRegulariser
from dua_lightning.tasks import Expert, Task
from dua_lightning.training import Plateau, fit
from tests.helpers import tiny
from tests.helpers.training import Watch, training
from tests.reference.plateau_loop import plateau


class Scripted(nn.Module):
    """Classifies the first `script[e]` validation images rightly after epoch e, and keeps e + 1 in its state."""

    def __init__(self, script: list[int]) -> None:
        super().__init__()
        self.script = script
        self.weight = nn.Parameter(torch.zeros(()))
        self.register_buffer("epochs", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.epochs += 1
        right = x[:, 0, 0, 0] + 256 * x[:, 1, 0, 0] < self.script[int(self.epochs) - 1]
        return torch.stack([self.weight + right, self.weight + ~right], 1)


def zeros(n: int = 4) -> ServerTask:
    """One training batch an epoch and `n` validation images, all of class 0; an image is its number."""
    number = torch.arange(n)
    pixels = torch.stack([number % 256, number // 256, 0 * number], 1)[:, :, None, None].byte()
    validation = images(pixels, 0 * number, number, 0, 1 / 255)
    return ServerTask(Task("a", slice(0, 2)), validation[:4], validation, 4, 0)


def follow(script: list[int], n: int = 4, **rule: float) -> tuple[list[float], int, Expert]:
    """The learning rate of each epoch, the epoch that the network ends with, and the expert."""
    net, watch = Scripted(script), Watch()
    asked = training(max_epochs=len(script), lr=0.1, watch=[watch], plateau=rule)
    expert = fit(net, zeros(n), NoRegulariser(), asked).expert
    return watch.rates, int(net.epochs), expert


NEVER_BETTER = [1] * 12
BETTER_JUST_IN_TIME = [0, *[0] * 4, 1, *[1] * 9, 2, *[2] * 11]
TWO_PLATEAUS = [0, *[0] * 5, 1, *[0] * 5, 2, *[2] * 11]
FALLING = [4, 3, 2, 1, 0, 3, 3, 3, 3, 3, 3, 3]
ALWAYS_BETTER = [0, 1, 2, 3, 4]


@settings(max_examples=15, deadline=None, derandomize=True, database=None)
@given(
    script=st.lists(st.integers(0, 4), min_size=1, max_size=20),
    patience=st.integers(1, 6),
    factor=st.sampled_from([0.1, 0.5]),
    stop_after=st.integers(1, 8),
)
@example(script=NEVER_BETTER, patience=5, factor=0.1, stop_after=5)
@example(script=BETTER_JUST_IN_TIME, patience=5, factor=0.1, stop_after=5)
@example(script=TWO_PLATEAUS, patience=5, factor=0.1, stop_after=5)
@example(script=FALLING, patience=5, factor=0.1, stop_after=5)
@example(script=ALWAYS_BETTER, patience=5, factor=0.1, stop_after=5)
@example(script=[0] * 14, patience=5, factor=0.1, stop_after=6)
def test_rates_stop_and_best_epoch_are_those_of_the_papers_rule(
    script: list[int], patience: int, factor: float, stop_after: int
) -> None:
    found, last, expert = follow(script, patience=patience, factor=factor, stop_after=stop_after)
    rates, best = plateau(script, 0.1, patience, factor, stop_after)
    assert found == pytest.approx(rates, rel=1e-12)
    assert int(expert.state["epochs"]) == last == best + 1


@pytest.mark.parametrize(
    ("script", "rates"),
    [
        (NEVER_BETTER, [0.1] * 6 + [0.01] * 5),
        (BETTER_JUST_IN_TIME, [0.1] * 11 + [0.01] * 5 + [0.01] * 5 + [0.001] * 5),
        (TWO_PLATEAUS, [0.1] * 6 + [0.01] * 6 + [0.001] * 6 + [0.0001] * 5),
        (ALWAYS_BETTER, [0.1] * 5),
    ],
)
def test_the_rule_counted_by_hand(script: list[int], rates: list[float]) -> None:
    """Also of the oracle: five bad epochs, a tenth of the rate; five more, the end; after an improvement all anew."""
    assert plateau(script, 0.1)[0] == pytest.approx(rates)
    assert follow(script)[0] == pytest.approx(rates)


def test_one_image_more_among_many_is_an_improvement() -> None:
    rates, _, expert = follow([20000, *[20001] * 5], n=20002, patience=2)
    assert rates == pytest.approx([0.1] * 4 + [0.01] * 2)
    assert int(expert.state["epochs"]) == 2


def test_the_earliest_of_equally_good_epochs_is_the_best() -> None:
    _, last, expert = follow([0, 3, 1, 3, 3, 2])
    assert int(expert.state["epochs"]) == last == 2


def test_an_accuracy_of_zero_still_gives_a_trained_expert() -> None:
    assert int(follow([0, 0, 0])[2].state["epochs"]) == 1


def test_the_defaults_are_the_papers() -> None:
    rule = Plateau()
    assert (rule.monitor, rule.patience, rule.factor, rule.stop_after) == ("val_accuracy", 5, 0.1, 5)


def test_a_metric_that_is_not_logged_is_an_input_error_that_names_those_that_are() -> None:
    asked = training(plateau={"monitor": "val_loss"})
    with pytest.raises(InputError, match=r"watches val_loss, .* is train_loss, val_accuracy"):
        fit(tiny.network(), tiny.benchmark().server[0], NoRegulariser(), asked)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("patience", 0), ("stop_after", 0), ("factor", 0.0), ("factor", 1.0), ("factor", float("nan"))],
)
def test_a_setting_that_cannot_be_is_an_input_error_that_names_it(setting: str, value: float) -> None:
    with pytest.raises(InputError, match=f"{setting} .*got {value}"):
        Plateau(**{setting: value})
