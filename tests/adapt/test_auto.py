"""The device's own choice: its criteria against loops, and users for whom it adapts and for whom it does not."""

import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dua_lightning.adapt import (
    BBSE,
    AdaBN,
    AdaBNS,
    AdaBNSReleased,
    AlphaBN,
    Auto,
    BalancedBN,
    Chain,
    EarlyBN,
    LabelShift,
    Unchanged,
)
from dua_lightning.adapt import criteria as module
from dua_lightning.adapt.adabn import statistics_distance
from dua_lightning.adapt.auto import _even
from dua_lightning.adapt.base import OfExpert, OfServer, asks
from dua_lightning.adapt.criteria import CRITERIA
from dua_lightning.adapt.label_shift import class_prior
from dua_lightning.errors import InputError
from dua_lightning.params import State, task_logits
from dua_lightning.streams import generator
from dua_lightning.tasks import Task
from tests.adapt.test_adabn import IMAGES, shifted
from tests.adapt.test_early_bn import score
from tests.adapt.users import EVEN, SKEWED, TRAINED, images, scores, trained
from tests.helpers.nets import BATCH_NORM, MLP, PLAIN, TASK, batches, close, equal, untouched
from tests.reference import criteria_loop

LOOK = Auto([AlphaBN(), BalancedBN(rounds=3, pseudo_count=16)], "statistics", 0.02)
AUTO = Chain([LOOK, Auto([LabelShift()], "likelihood", 0.01)])
"""First the look and then the classes, as in `conf/adapt/auto`, on candidates that suit a network of two layers."""


def softmax_of(state: State, x: Tensor) -> list[list[float]]:
    p: list[list[float]] = task_logits(TRAINED.build().eval(), state, x, TASK.classes).softmax(1).tolist()
    return p


def judged(criterion: str, state: State, x: Tensor) -> float:
    net = TRAINED.build()
    with untouched(net, state):
        return CRITERIA[criterion](net, trained(), state, TASK, list(x.split(7)))


def test_scores_of_predictions_are_those_of_the_loops() -> None:
    x, _ = images(30, SKEWED)
    p = softmax_of(trained(), x)
    unsure = sum(map(criteria_loop.entropy, p)) / len(p)
    assert judged("entropy", trained(), x) == pytest.approx(-unsure)
    assert judged("information", trained(), x) == pytest.approx(
        criteria_loop.entropy(criteria_loop.mean_of(p)) - unsure
    )


@pytest.mark.parametrize("dropout", [0.4, 0.8])
def test_aetta_is_that_of_the_loop(dropout: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DROPOUT", dropout)
    x, _ = images(30, SKEWED)
    net = TRAINED.build().eval()
    net.load_state_dict(trained())
    stream, draws = generator(0, "aetta", TASK.name), []
    for _ in range(module.DRAWS):
        features = net.body(x).detach()
        features *= (torch.rand(features.shape, generator=stream, dtype=torch.float64) >= dropout) / (1 - dropout)
        draws.append(net.head(features)[:, TASK.classes].softmax(1).tolist())
    predicted = [row.index(max(row)) for row in softmax_of(trained(), x)]
    expected = criteria_loop.aetta(predicted, draws)
    assert judged("aetta", trained(), x) == pytest.approx(expected)
    assert expected > 1 / 3
    one = Task("one", slice(2, 3))
    assert CRITERIA["aetta"](net, trained(), trained(), one, [x]) == 1


def test_the_distance_of_statistics_is_that_of_normal_densities() -> None:
    net, weights = nn.Sequential(nn.BatchNorm1d(2, eps=0.1)).double(), torch.tensor([1.0, 2, 3, 0], dtype=torch.float64)
    net[0].running_mean.copy_(torch.tensor([0.5, -1]))
    net[0].running_var.copy_(torch.tensor([2, 0.3]))
    x = torch.tensor([[0.1, 3], [2, 0.4], [-1, 0], [9, 9]], dtype=torch.float64)
    mean = (weights[:, None] * x).sum(0) / 6
    variance = (weights[:, None] * (x - mean) ** 2).sum(0) / 6
    expected = [
        criteria_loop.bhattacharyya(m, v + 0.1, float(net[0].running_mean[c]), float(net[0].running_var[c]) + 0.1)
        for c, (m, v) in enumerate(zip(mean.tolist(), variance.tolist(), strict=True))
    ]
    for parts in ([x], [x[:1], x[1:]]):
        with untouched(net):
            assert statistics_distance(net, parts, weights) == pytest.approx(sum(expected) / 2, rel=1e-6)
    net[0].running_mean.copy_(mean)
    net[0].running_var.copy_(variance)
    assert statistics_distance(net, [x], weights) == pytest.approx(0, abs=1e-12)


def test_a_share_of_the_distance_is_that_of_the_earliest_layers() -> None:
    net, state, x = IMAGES.build().eval(), IMAGES.expert().state, shifted(IMAGES)
    net.load_state_dict(state)
    weights = torch.ones(len(x), dtype=torch.float64)
    first = nn.Sequential(next(iter(net.children())))
    expected = statistics_distance(first, [x], weights)
    assert statistics_distance(net, [x], weights, 0.01) == pytest.approx(expected)
    assert statistics_distance(net, [x], weights) != pytest.approx(expected)
    assert CRITERIA["look"](net, state, state, TASK, [x[:3], x[3:]]) == pytest.approx(-expected)


def test_another_look_is_told_from_uneven_classes_before_anything_is_adapted() -> None:
    auto = Auto([EarlyBN(0.5)])
    for classes in (EVEN, SKEWED):
        assert score(auto, classes, True) == score(EarlyBN(0.5), classes, True)
        assert score(auto, classes, False) == score(Unchanged(), classes, False)


def test_another_adaptation_may_be_applied_where_a_candidate_is_taken() -> None:
    auto = Auto([EarlyBN(0.5)], applied=AdaBN())
    assert score(auto, EVEN, True) == score(AdaBN(), EVEN, True)
    assert score(auto, SKEWED, False) == score(Unchanged(), SKEWED, False)
    informed = Auto([BBSE()], "likelihood", applied=BBSE(0.5)).with_server(
        TRAINED.build(), trained(), TASK, [images(60)]
    )
    assert all(one.confusions is not None for one in informed.steps)
    assert (len(informed.candidates), informed.applied.strength) == (1, 0.5)
    with pytest.raises(InputError, match="AdaBNS needs more"):
        Auto(applied=AdaBNS())


def test_the_likelihood_of_a_corrected_head_is_that_of_the_prior() -> None:
    x, _ = images(40, SKEWED)
    p = torch.tensor(softmax_of(trained(), x), dtype=torch.float64)
    corrected = LabelShift()(TRAINED.build(), trained(), TASK, [(x, None)])
    # A constant changes no prediction.
    corrected["head.bias"] += 3
    expected = (3 * p @ class_prior(p, pseudo_count=1)).log().mean()
    assert judged("likelihood", corrected, x) - judged("likelihood", trained(), x) == pytest.approx(
        float(expected), rel=1e-5
    )
    assert expected > 0.1


def test_agreement_is_with_mirror_images() -> None:
    case, x = BATCH_NORM, BATCH_NORM.images(20)
    net, state = case.build().eval(), case.expert().state
    net.load_state_dict(state)
    both = [net(view)[:, TASK.classes].argmax(1) for view in (x, x.flip(3))]
    expected = sum(a == b for a, b in zip(*(found.tolist() for found in both), strict=True)) / 20
    assert CRITERIA["agreement"](net, state, state, TASK, [x[:3], x[3:]]) == expected
    with pytest.raises(InputError, match=r"agreement compares images with mirror images, and inputs are \(6,\)"):
        judged("agreement", trained(), images(3)[0])


class Fixed:
    """An adaptation that says how good it is on each fold, by the first number of the head's bias."""

    needs_labels = False

    def __init__(self, value: float) -> None:
        self.value = value

    def check(self, net: nn.Module) -> None: ...

    def trainable(self, net: nn.Module) -> int:
        return 0

    def __call__(self, net: nn.Module, state: State, task: Task, data: Any) -> State:
        seen = torch.cat([x for x, y in data if y is None])
        return state | {"made": torch.tensor([self.value, float(seen.sum())])}


def test_the_best_candidate_adapts_on_all_images_if_it_gains_on_every_fold(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def judge(net: nn.Module, given: State, state: State, task: Task, parts: list[Tensor]) -> float:
        if "made" not in state:
            return 1.0
        value, seen = state["made"].tolist()
        # The images are 0 to 8: the judged ones and those that were adapted on are never the same.
        assert seen + float(torch.cat(parts).sum()) == 36
        return 1.0 + value * (1 if seen > 18 else float(parts[0][0] + 0.5))

    monkeypatch.setitem(CRITERIA, "entropy", judge)
    data = [(torch.arange(k, k + 3.0)[:, None], None) for k in (0, 3, 6)]
    better = [Fixed(0.1), Fixed(0.3), Fixed(0.2)]
    caplog.set_level(logging.INFO)
    found = Auto(better, "entropy", 0.02)(MLP.build(), {}, TASK, data)
    close(found["made"], torch.tensor([0.3, 36.0]))
    assert "task middle: adapted by" in caplog.text
    # On the fold that begins with image 0 it gains half as much.
    for margin, adapts in ((0.14, True), (0.16, False)):
        assert ("made" in Auto(better, "entropy", margin)(MLP.build(), {}, TASK, data)) is adapts
    assert Auto([Fixed(-0.1)], "entropy", 0)(MLP.build(), {}, TASK, data) == {}
    few = [(torch.zeros(3, 1), None)]
    assert Auto([Fixed(9)], "entropy")(MLP.build(), {}, TASK, few) == {}
    assert "not adapted, as there are fewer than two images" in caplog.text


def test_a_candidate_gets_what_the_server_measures() -> None:
    server, x = images(300, seed=7), images(200, SKEWED, seed=8)[0]
    net, state, data = TRAINED.build(), trained(), batches(x, None, 20)
    auto = Auto([BBSE()], "likelihood", 0.01)
    assert asks(Chain([auto]), OfServer)
    assert not asks(AUTO, OfExpert)
    found = Chain([auto]).with_server(net, state, TASK, [server])(net, state, TASK, data)
    equal(found, BBSE().with_server(net, state, TASK, [server])(net, state, TASK, data))
    assert not torch.equal(found["head.bias"], state["head.bias"])


def test_labels_are_never_read() -> None:
    x, _ = images(40, EVEN, shifted=True)
    equal(*(AUTO(TRAINED.build(), trained(), TASK, [(x, y)]) for y in (object(), None)))


def test_no_batch_is_smaller_than_it_must_be() -> None:
    assert [_even(n, 20) for n in (20, 21, 41, 1)] == [[20], [11, 10], [14, 14, 13], [1]]
    assert Auto().normalised_together([20, 1]) == 10
    assert Auto().normalised_together([1]) == 2
    assert Auto([AdaBN()]).normalised_together([3, 2]) == 2


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"candidates": []}, "at least one adaptation in candidates"),
        ({"candidates": [AdaBNS()]}, "unlabelled images alone, and AdaBNS needs more"),
        ({"candidates": [Chain([AdaBNSReleased()])]}, "unlabelled images alone, and Chain needs more"),
        ({"criterion": "luck"}, "no criterion luck; it has entropy"),
        ({"folds": 1}, "2 or more folds, got 1"),
        ({"margin": -1}, "margin of auto is 0 or more"),
    ],
)
def test_arguments_that_cannot_be_used_are_input_errors(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        Auto(**arguments)


def test_networks_that_cannot_be_judged_are_input_errors() -> None:
    for adapt, case in ((Auto([Unchanged()]), MLP), (Auto([Unchanged()], "aetta"), PLAIN), (Auto(), MLP)):
        with pytest.raises(InputError, match="needs"):
            adapt.check(case.build())
    assert Auto([Unchanged(), AdaBN()]).trainable(MLP.build()) == 0


def test_it_adapts_users_whose_images_or_classes_have_shifted_and_leaves_others_alone() -> None:
    before, after = scores(AUTO, EVEN, shifted=True)
    assert after > before + 4
    before, after = scores(AUTO, SKEWED, shifted=False)
    assert after > before + 4
    before, after = scores(AUTO, SKEWED, shifted=True)
    assert after > before + 4
    net, x = TRAINED.build(), images(200, EVEN, seed=1)[0]
    assert AUTO(net, trained(), TASK, batches(x, None, 20)) is trained()
