"""Linear probing: the body rests in the first epochs, and learns afterwards."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn

from dua_lightning.errors import InputError
from dua_lightning.params import clone
from dua_lightning.regularise import L2Transfer, LwF, NoRegulariser, Regulariser
from dua_lightning.training import LinearProbing, fit
from tests.helpers import tiny
from tests.helpers.training import Watch, training


class Normed(nn.Module):
    """In training it is another function than in evaluation, so that LwF's teacher never agrees with it."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.body = nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.BatchNorm1d(4))
            self.head = nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def states(
    probed: int, regulariser: Regulariser | None = None, epochs: int = 4, folder: Path | None = None
) -> list[dict[str, Tensor]]:
    """The network before a fit and after each of its epochs; momentum and weight decay would move weights at rest."""
    net, watch = tiny.network(), Watch()
    asked = training(max_epochs=epochs, watch=[LinearProbing(probed), watch])
    asked = replace(asked, optimizer=lambda parameters: torch.optim.SGD(parameters, 0.05, 0.9, weight_decay=0.1))
    data = tiny.benchmark().server[0]
    before = clone(net.state_dict())
    if regulariser is not None:
        # Elsewhere than the fit begins, so that it pulls from the first step on.
        regulariser.consolidate(asked.module(tiny.network(seed=1), data), tiny.tasks()[1], [])
    fit(net, data, regulariser or NoRegulariser(), asked, folder)
    return [before, *watch.states]


def moved(a: dict[str, Tensor], b: dict[str, Tensor]) -> tuple[bool, bool]:
    """Whether any weight of the body, and any of the head, differs."""
    differ = {name for name in a if not torch.equal(a[name], b[name])}
    return any(not name.startswith("head") for name in differ), any(name.startswith("head") for name in differ)


@pytest.mark.parametrize("probed", [0, 1, 3])
def test_the_body_rests_for_so_many_epochs_and_the_head_never(probed: int) -> None:
    all_states = states(probed)
    steps = [moved(a, b) for a, b in pairwise(all_states)]
    assert steps == [(epoch >= probed, True) for epoch in range(4)]


@pytest.mark.parametrize("regulariser", [LwF(), L2Transfer(10.0)], ids=["LwF", "L2-transfer"])
def test_what_a_regulariser_asks_of_the_body_waits_as_well(regulariser: Regulariser) -> None:
    before, first, second, *_ = states(1, regulariser)
    assert moved(before, first) == (False, True)
    assert moved(first, second) == (True, True)


def test_columns_of_other_tasks_rest_with_the_body() -> None:
    """Distillation would move them."""
    net, watch, regulariser = Normed(), Watch(), LwF()
    one, two = tiny.benchmark().server[:2]
    asked = training(max_epochs=2, watch=[LinearProbing(), watch])
    before = clone(net.state_dict())
    regulariser.consolidate(asked.module(net, one), one.task, [])
    fit(net, two, regulariser, asked)
    for name in ("head.weight", "head.bias"):
        rested, moved_on = (state[name] == before[name] for state in watch.states)
        assert rested[one.task.classes].all()
        assert not rested[two.task.classes].all()
        assert not moved_on[one.task.classes].all()


def test_a_fit_that_is_continued_rests_for_the_same_epochs(tmp_path: Path) -> None:
    whole = states(2)
    begun = states(2, epochs=1, folder=tmp_path)
    continued = states(2, folder=tmp_path)
    assert tiny.same(whole[1], begun[1])
    assert len(continued) == 4
    assert all(tiny.same(a, b) for a, b in zip(whole[2:], continued[1:], strict=True))


def test_batch_norm_statistics_go_on_learning() -> None:
    net = Normed()
    before = clone(net.state_dict())
    fit(net, tiny.benchmark().server[0], NoRegulariser(), training(max_epochs=1, watch=[LinearProbing()]))
    differ = {name for name, tensor in net.state_dict().items() if not torch.equal(tensor, before[name])}
    statistics = {"body.2.running_mean", "body.2.running_var", "body.2.num_batches_tracked"}
    assert differ == {"head.weight", "head.bias", *statistics}


def test_a_module_without_a_head_is_refused_in_one_line() -> None:
    class Headless(LightningModule):
        pass

    trainer = Trainer(logger=False, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False)
    with pytest.raises(InputError, match="this Headless has none; give it a property `head`"):
        LinearProbing().on_fit_start(trainer, Headless())


def test_negative_epochs_are_refused() -> None:
    with pytest.raises(InputError, match="at least 0, got -1"):
        LinearProbing(-1)
