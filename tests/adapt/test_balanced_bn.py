"""Class-balanced statistics against their loops, and their laws."""

import pytest
import torch
from torch import Tensor, nn

from dua_lightning.adapt import AdaBN, AlphaBN, BalancedBN
from dua_lightning.adapt.adabn import take_statistics
from dua_lightning.adapt.balanced_bn import balancing_weights
from dua_lightning.errors import InputError
from dua_lightning.params import State, task_logits
from tests.adapt.test_adabn import CASES, N, loaded, shifted
from tests.adapt.users import EVEN, SKEWED, scores
from tests.helpers.nets import CLASSES, TASK, Case, batches, close, equal, untouched
from tests.reference import weighted_bn_loop
from tests.reference.class_prior_loop import class_prior


def _make(_: int) -> nn.Sequential:
    net = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 5), nn.BatchNorm1d(5)
    ).append(nn.Linear(5, CLASSES))
    # The classes are told apart.
    nn.init.normal_(net[-1].weight)
    return net


SURE = Case("sure of itself", (2, 4, 4), _make)
STATE = AdaBN()(SURE.build(), SURE.expert().state, TASK, [(SURE.images(50), None)])


def softmax_of(case: Case, state: State, x: Tensor) -> Tensor:
    return task_logits(case.build().eval(), state, x, TASK.classes).detach().softmax(1)


def different(n: int = N) -> Tensor:
    return 1.5 * SURE.images(n, 8) + 0.3


def expected_weights(shares: Tensor, adapt: BalancedBN) -> list[float]:
    """By loops: the prior, the corrected shares, perhaps the largest of them, and the weights."""
    rows = shares.tolist()
    if adapt.corrected:
        prior = class_prior(rows, [1 / 3] * 3, 1, 300)
        rows = [[p * q for p, q in zip(row, prior, strict=True)] for row in rows]
        rows = [[p / sum(row) for p in row] for row in rows]
    if not adapt.soft:
        rows = [[float(c == row.index(max(row))) for c in range(3)] for row in rows]
    return weighted_bn_loop.balancing_weights(rows, 1)


@pytest.mark.parametrize("soft", [True, False])
@pytest.mark.parametrize("corrected", [True, False])
@pytest.mark.parametrize("rounds", [1, 2])
def test_every_class_counts_the_same(soft: bool, corrected: bool, rounds: int) -> None:
    adapt = BalancedBN(rounds, soft, corrected, pseudo_count=3)
    case, net, before, x = SURE, SURE.build(), STATE, different()
    expected = dict(before)
    for _ in range(rounds):
        weights = expected_weights(softmax_of(case, expected, x), adapt)
        for name, (mean, var) in weighted_bn_loop.weighted_bn(loaded(case, before), x, weights, 3 / (3 + N)).items():
            expected[f"{name}.running_mean"], expected[f"{name}.running_var"] = mean, var
    with untouched(net, before):
        close(adapt(net, before, TASK, batches(x, None, 3)), expected, 1e-5)
    assert max(weights) > 1.05 * min(weights)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", [1, 2, 5])
def test_weights_go_with_their_images_in_parts(case: Case, size: int) -> None:
    x, weights = shifted(case), torch.arange(N).double()
    found = []
    for images_at_once in (None, size):
        net = loaded(case, case.expert().state)
        take_statistics(net, list(x.split(3)), images_at_once, TASK, weights=weights)
        found.append({name: t for name, t in net.state_dict().items() if "running" in name})
    close(found[1], found[0])
    # An image without weight might as well not be there.
    net = loaded(case, case.expert().state)
    take_statistics(net, [x[1:]], None, TASK, weights=3 * weights[1:])
    close({name: net.state_dict()[name] for name in found[0]}, found[0])


def test_the_weights_are_those_of_the_loop_and_leave_out_a_class_without_images() -> None:
    shares = torch.tensor(
        [[0.7, 0.3, 0, 0], [0.9, 0.1, 0, 0], [0.2, 0.8, 0, 0], [0.1, 0.2, 0.7, 0.0]], dtype=torch.float64
    )
    for fewest in (0.1, 0.5, 1.0, 1.5):
        expected = weighted_bn_loop.balancing_weights(shares.tolist(), fewest)
        close(balancing_weights(shares, fewest), torch.tensor(expected, dtype=torch.float64))
        assert sum(expected) == pytest.approx(4)
    assert balancing_weights(shares, 5).tolist() == [1] * 4


def test_with_even_classes_it_is_adabn() -> None:
    net, x = SURE.build(), different(100)
    predicted = softmax_of(SURE, STATE, x).argmax(1)
    even = [(torch.cat([x[predicted == c][:2] for c in range(3)]), None)]
    assert len(even[0][0]) == 6
    for pseudo_count in (0, 16):
        found = BalancedBN(soft=False, corrected=False, pseudo_count=pseudo_count)(net, STATE, TASK, even)
        close(found, AlphaBN(pseudo_count)(net, STATE, TASK, even))


def test_labels_are_never_read() -> None:
    x = different()
    one, other = (BalancedBN()(SURE.build(), STATE, TASK, [(x, y)]) for y in (object(), None))
    equal(one, other)


def test_settings_and_networks_that_cannot_be_used_are_input_errors() -> None:
    with pytest.raises(InputError, match="1 or more rounds, got 0"):
        BalancedBN(0)
    with pytest.raises(InputError, match="pseudo-count of class-balanced AdaBN"):
        BalancedBN(pseudo_count=-1)
    net = nn.Sequential(nn.Flatten(0, 1), nn.BatchNorm1d(2), nn.Unflatten(0, (-1, 3)), nn.Flatten(), nn.Linear(6, 6))
    with pytest.raises(InputError, match=r"4 weighted images reach a BatchNorm layer as 12 inputs"):
        BalancedBN()(net, net.state_dict(), TASK, [(torch.randn(4, 3, 2), None)])


def test_it_helps_where_images_look_different_and_harms_uneven_classes_less_than_adabn_does() -> None:
    before, after = scores(BalancedBN(3), EVEN, shifted=True)
    assert after > before + 5
    _, balanced = scores(BalancedBN(), SKEWED, shifted=False)
    _, adabn = scores(AdaBN(), SKEWED, shifted=False)
    assert balanced > adabn + 15
    before, after = scores(BalancedBN(), EVEN, shifted=False)
    assert after > before - 1
