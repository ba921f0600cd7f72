"""AdaBN of the earliest layers against its loop, its end, and users whom it helps and whom it must not harm."""

from collections.abc import Sequence
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from dua_lightning.adapt import AdaBN, Adapt, EarlyBN, Unchanged
from dua_lightning.errors import InputError
from dua_lightning.evaluation import accuracy
from dua_lightning.params import State
from dua_lightning.tasks import Batch
from tests.adapt.test_adabn import CASES, N, loaded, shifted
from tests.adapt.users import EVEN, SKEWED
from tests.helpers.nets import CLASSES, TASK, Case, batch_norms, batches, close, equal, untouched
from tests.reference.weighted_bn_loop import weighted_bn


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("first", [1, 2])
def test_the_first_layers_take_the_users_moments_and_the_others_keep_theirs(case: Case, first: int) -> None:
    net, before, x = case.build(), case.expert().state, shifted(case)
    expected = dict(before)
    for name, (mean, var) in weighted_bn(loaded(case, before), x, [1.0] * N, 0.0, first).items():
        expected[f"{name}.running_mean"], expected[f"{name}.running_var"] = mean, var
    count = len(batch_norms(net))
    adapt = EarlyBN((first - 0.5) / count)
    with untouched(net, before):
        close(adapt(net, before, TASK, batches(x, None, 3)), expected)
    close(EarlyBN(first / count, images_at_once=2)(net, before, TASK, [(x, None)]), expected)
    assert not torch.equal(
        AdaBN()(net, before, TASK, [(x, None)])[f"{name}.running_mean"], expected[f"{name}.running_mean"]
    )


@pytest.mark.parametrize("case", CASES)
def test_all_layers_are_adabn(case: Case) -> None:
    net, state, data = case.build(), case.expert().state, [(shifted(case), None)]
    equal(EarlyBN(1.0)(net, state, TASK, data), AdaBN()(net, state, TASK, data))


class Backwards(nn.Module):
    """Its layers are listed in another order than a pass goes through them."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.BatchNorm1d(3)
        self.first = nn.BatchNorm1d(3)
        self.never = nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.first(x).relu())
        return out


def test_layers_are_counted_as_a_pass_reaches_them() -> None:
    case = Case("backwards", (3,), lambda _: Backwards())
    state = case.expert().state
    after = EarlyBN(0.5)(case.build(), state, TASK, [(shifted(case), None)])
    changed = {name for name in state if not torch.equal(after[name], state[name])}
    assert changed == {"first.running_mean", "first.running_var"}


@pytest.mark.parametrize("share", [0.0, 1.5, float("nan")])
def test_shares_that_cannot_be_used_are_input_errors(share: float) -> None:
    with pytest.raises(InputError, match="early AdaBN"):
        EarlyBN(share)


def pictures(n: int, classes: Sequence[float], shifted: bool, seed: int) -> Batch:
    """Pictures of a bright row, whose place is the class, so that the moments of their pixels do not tell it."""
    stream = torch.Generator().manual_seed(seed)
    column = torch.multinomial(torch.tensor(classes, dtype=torch.float64), n, replacement=True, generator=stream)
    x = 0.8 * torch.randn(n, 1, 3, 4, generator=stream, dtype=torch.float64)
    x[torch.arange(n), 0, column] += 1
    return (0.4 * x - 2 if shifted else x), column + TASK.classes.start


@cache
def trained() -> tuple[nn.Module, State]:
    torch.manual_seed(0)
    body = [nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(12, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, CLASSES)]
    net = nn.Sequential(*body).double()
    x, y = pictures(600, EVEN, shifted=False, seed=9)
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x)[:, TASK.classes], TASK.columns(y)).backward()
        optimizer.step()
    return net, {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}


def score(adapt: Adapt, classes: Sequence[float], shifted: bool) -> float:
    net, state = trained()
    adapted = adapt(net, state, TASK, [pictures(200, classes, shifted, 1)])
    return accuracy(net, adapted, TASK, [pictures(1000, classes, shifted, 2)])


def test_it_helps_where_images_look_different_and_does_not_harm_a_user_of_few_classes() -> None:
    first = EarlyBN(0.5)
    assert score(first, EVEN, True) > score(Unchanged(), EVEN, True) + 10
    assert score(first, EVEN, False) > score(Unchanged(), EVEN, False) - 1
    for other in (False, True):
        assert score(first, SKEWED, other) > score(AdaBN(), SKEWED, other) + 10
    assert score(first, SKEWED, False) > score(Unchanged(), SKEWED, False) - 1
