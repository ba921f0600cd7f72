"""TENT, information maximisation, EATA and SAR against loops that take one number at a time, and laws of all four."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from dua_lightning.adapt import EATA, SAR, TENT, AdaBN, Adapt, InformationMaximisation
from dua_lightning.adapt.label_shift import class_prior
from dua_lightning.adapt.without_labels import TunesWithoutLabels
from dua_lightning.errors import DivergedError, InputError
from dua_lightning.nets import Network
from dua_lightning.params import State, norm_affine
from dua_lightning.tasks import Batch
from tests.adapt import users
from tests.helpers.nets import BATCH_NORM, CLASSES, MLP, TASK, Case, batches, close, equal, untouched
from tests.reference import steps_loop as slow

LAYERS = Case(
    "layer and group norm",
    (6,),
    lambda _: Network(
        nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Tanh(), nn.GroupNorm(2, 8)), nn.Linear(8, CLASSES)
    ),
)
CASES = [pytest.param(case, id=case.name) for case in (BATCH_NORM, LAYERS)]
GIVEN = pytest.mark.parametrize("given", [False, True], ids=["own statistics", "given statistics"])
METHODS = [TENT(), InformationMaximisation(), EATA(), SAR(recovery=0.01)]
EVERY = pytest.mark.parametrize("phi", METHODS, ids=lambda phi: phi.name)


def images(case: Case, n: int = 14) -> Tensor:
    return 3 * case.images(n) + 2


def certain(case: Case) -> State:
    """An expert that is certain of most images, which one drawn at random is not."""
    state = case.expert().state
    return state | {"head.weight": 6 * state["head.weight"]}


def unlabelled(case: Case) -> list[Batch]:
    return batches(images(case), None, 5)


def compare(
    phi: TunesWithoutLabels, case: Case, train: Callable[[nn.Module, list[Tensor], list[nn.Parameter]], None]
) -> None:
    """The adaptation, and a training of a plain network whose statistics are taken at the end."""
    state = certain(case)
    found = phi(case.build(), state, TASK, unlabelled(case))
    plain = case.build()
    plain.load_state_dict(state)
    parameters = slow.norms(plain, phi.statistics == "given")
    train(plain, [x for x, _ in unlabelled(case)], parameters)
    expected = {name: tensor.detach() for name, tensor in plain.state_dict().items()}
    assert any(not torch.equal(expected[name], state[name]) for name in norm_affine(plain))
    if case is BATCH_NORM and phi.statistics != "given":
        expected = AdaBN()(case.build(), expected, TASK, unlabelled(case))
    names = [name for name in expected if "num_batches" not in name]
    close([found[name] for name in names], [expected[name] for name in names], 1e-8)


@GIVEN
@pytest.mark.parametrize("case", CASES)
def test_tent(case: Case, given: bool) -> None:
    phi = TENT(2, lr=0.05, statistics="given" if given else "exact")
    compare(
        phi,
        case,
        lambda net, xs, parameters: slow.steps(
            net, TASK.classes, xs, 2, slow.Adam(parameters, 0.05), lambda z: slow.mean([slow.entropy(r) for r in z])
        ),
    )


@GIVEN
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("prior", ["uniform", "estimated"])
def test_information_maximisation(case: Case, prior: str, given: bool) -> None:
    phi = InformationMaximisation(2, 0.05, prior=prior, statistics="given" if given else "exact")

    def train(net: nn.Module, xs: list[Tensor], parameters: list[nn.Parameter]) -> None:
        pi = [1 / 3] * 3
        if prior == "estimated":
            before, state = case.build().eval().requires_grad_(False), certain(case)
            adapted = state if given or case is LAYERS else AdaBN()(before, state, TASK, unlabelled(case))
            before.load_state_dict(adapted)
            rows = [[p.item() for p in slow.softmax(row)] for row in before(torch.cat(xs))[:, TASK.classes]]
            pi = class_prior(torch.tensor(rows, dtype=torch.float64), pseudo_count=1).tolist()
            assert max(pi) > 0.34
        slow.steps(net, TASK.classes, xs, 2, slow.Adam(parameters, 0.05), lambda z: slow.information(z, pi))

    compare(phi, case, train)


@GIVEN
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("strength", [0.0, 3.0])
def test_eata(case: Case, strength: float, given: bool) -> None:
    phi = EATA(3, 0.05, strength=strength, statistics="given" if given else "exact", similarity=0.8)

    def train(net: nn.Module, xs: list[Tensor], parameters: list[nn.Parameter]) -> None:
        start = [p.detach().clone() for p in parameters]
        fisher = slow.fisher(net, TASK.classes, xs, parameters)

        def pull() -> Tensor:
            return strength * sum((f * (p - s) ** 2).sum() for f, p, s in zip(fisher, parameters, start, strict=True))

        loss = slow.Chosen(3, 0.8, pull)
        slow.steps(net, TASK.classes, xs, 3, slow.SGD(parameters, 0.05), loss)

    compare(phi, case, train)


@GIVEN
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("recovers", [False, True])
def test_sar(case: Case, recovers: bool, given: bool) -> None:
    recovery = recovers * (0.1 if case is BATCH_NORM else 0.2)
    phi = SAR(3, 0.05, rho=0.3, recovery=recovery, statistics="given" if given else "exact")

    def train(net: nn.Module, xs: list[Tensor], parameters: list[nn.Parameter]) -> None:
        again = slow.sharpness_aware(net, TASK.classes, xs, 3, slow.SGD(parameters, 0.05), 0.3, recovery)
        assert again in (range(1, 6) if recovers else (0,))

    compare(phi, case, train)


@EVERY
@pytest.mark.parametrize("case", CASES)
def test_norms_and_statistics_change_and_nothing_else(phi: TunesWithoutLabels, case: Case) -> None:
    net, state, data = case.build(), certain(case), unlabelled(case)
    before = copy.deepcopy(data)
    with untouched(net, state):
        found = phi(net, state, TASK, data)
        kept = replace(phi, statistics="given")(net, state, TASK, data)
    equal(data, before)
    own, statistics = set(norm_affine(net)), {name for name, _ in net.named_buffers()}
    assert phi.trainable(net) == sum(state[name].numel() for name in own)
    for name in state:
        assert torch.equal(found[name], state[name]) == (name not in own | statistics), name
        assert torch.equal(kept[name], state[name]) == (name not in own), name


@EVERY
def test_labels_are_never_read(phi: TunesWithoutLabels) -> None:
    assert phi.needs_labels is False
    xs = images(BATCH_NORM)
    adapted = [
        phi(BATCH_NORM.build(), certain(BATCH_NORM), TASK, batches(xs, y, 5)) for y in (None, torch.full((14,), -9))
    ]
    equal(*adapted)


@EVERY
@pytest.mark.parametrize("case", CASES)
def test_the_order_of_the_classes_does_not_matter(phi: TunesWithoutLabels, case: Case) -> None:
    order = torch.tensor([0, 1, 4, 2, 3, 5])
    state = certain(case)
    turned = state | {name: state[name][order] for name in ("head.weight", "head.bias")}
    one, other = (phi(case.build(), given, TASK, unlabelled(case)) for given in (state, turned))
    expected = one | {name: one[name][order] for name in ("head.weight", "head.bias")}
    close(other, expected, 1e-8)


@EVERY
def test_without_an_epoch_it_is_adabn_or_nothing(phi: TunesWithoutLabels) -> None:
    state, none = BATCH_NORM.expert().state, replace(phi, epochs=0)
    adabn = AdaBN()(BATCH_NORM.build(), state, TASK, unlabelled(BATCH_NORM))
    equal(none(BATCH_NORM.build(), state, TASK, unlabelled(BATCH_NORM)), adabn)
    equal(replace(none, statistics="given")(BATCH_NORM.build(), state, TASK, unlabelled(BATCH_NORM)), state)


def test_a_class_prior_that_is_even_is_the_uniform_one() -> None:
    state = BATCH_NORM.expert().state
    even = state | {"head.weight": 0 * state["head.weight"], "head.bias": 0 * state["head.bias"]}
    phi = InformationMaximisation(2, 0.05, prior="estimated", parameters="body")
    given = BATCH_NORM.build(), even, TASK, unlabelled(BATCH_NORM)
    close(phi(*given), replace(phi, prior="uniform")(*given))


def test_information_maximisation_of_the_body_leaves_the_head() -> None:
    phi, net = InformationMaximisation(2, 0.05, optimizer="sgd", parameters="body"), MLP.build()
    phi.check(net)
    found = phi(net, MLP.expert().state, TASK, unlabelled(MLP))
    assert {name for name in found if torch.equal(found[name], MLP.expert().state[name])} == {
        "head.weight",
        "head.bias",
    }


@EVERY
def test_what_it_cannot_work_on_is_an_input_error(phi: TunesWithoutLabels) -> None:
    with pytest.raises(InputError, match=f"{phi.name} trains gamma and beta of normalisation layers, and this Network"):
        phi.check(MLP.build())
    for given in (phi, replace(phi, statistics="given")):
        with pytest.raises(InputError, match="at least one image"):
            given(BATCH_NORM.build(), BATCH_NORM.expert().state, TASK, [])
    wrong = [{"epochs": -1}, {"lr": 0.0}, {"momentum": 1.0}, {"images_at_once": 0}]
    for each in wrong:
        with pytest.raises(InputError, match=r"got (-1|0\.0|1\.0|0)$"):
            replace(phi, **each)


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        (InformationMaximisation, {"prior": "even"}),
        (InformationMaximisation, {"parameters": "head"}),
        (EATA, {"margin": 0.0}),
        (EATA, {"similarity": 0.0}),
        (EATA, {"strength": -1.0}),
        (SAR, {"margin": float("nan")}),
        (SAR, {"rho": -1.0}),
        (SAR, {"recovery": float("nan")}),
    ],
)
def test_a_number_that_cannot_be_used_is_named(make: type[TunesWithoutLabels], wrong: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"got ('even'|'head'|0\.0|-1\.0|nan)$"):
        make(**wrong)


@EVERY
@pytest.mark.parametrize("statistics", ["exact", "given"])
def test_an_image_that_is_not_a_number_is_refused(phi: TunesWithoutLabels, statistics: str) -> None:
    data = unlabelled(BATCH_NORM)
    data[1][0][0, 0, 0, 0] = torch.nan
    with pytest.raises(InputError, match="an image holds such numbers"):
        replace(phi, statistics=statistics)(BATCH_NORM.build(), certain(BATCH_NORM), TASK, data)


def test_training_that_diverges_is_refused() -> None:
    state = {name: tensor.float() for name, tensor in certain(BATCH_NORM).items()}
    with pytest.raises(DivergedError, match=r"TENT on task middle has made NaN or infinity of body.* lr=3e\+38"):
        TENT(9, 3e38, "sgd", statistics="given")(
            BATCH_NORM.build().float(), state, TASK, [(images(BATCH_NORM).float(), None)]
        )


def gain(phi: Adapt, classes: Sequence[float], shifted: bool) -> float:
    """Percentage points that a user gains on other images than those adapted on."""
    before, after = users.scores(phi, classes, shifted)
    return after - before


@EVERY
def test_a_user_behind_a_shift_gains(phi: TunesWithoutLabels) -> None:
    assert gain(phi, users.EVEN, shifted=True) > 8


@EVERY
@pytest.mark.parametrize("statistics", ["exact", "given"])
def test_a_user_without_a_shift_loses_nothing(phi: TunesWithoutLabels, statistics: str) -> None:
    assert gain(replace(phi, statistics=statistics), users.EVEN, shifted=False) > -0.5


def test_the_steps_alone_help_behind_a_shift() -> None:
    assert gain(InformationMaximisation(10, 5e-3, statistics="given"), users.EVEN, shifted=True) > 3
    # To be certain is right where most images are of one class.
    assert gain(TENT(10, 5e-3, statistics="given"), users.SKEWED, shifted=True) > 10


def test_an_estimated_prior_saves_a_user_of_uneven_classes() -> None:
    phi = InformationMaximisation(10, 5e-3, statistics="given")
    assert gain(phi, users.SKEWED, shifted=False) < -20
    assert gain(replace(phi, prior="estimated"), users.SKEWED, shifted=False) > 3
    assert gain(replace(phi, prior="estimated", statistics="exact"), users.SKEWED, shifted=False) < -20
