"""Releases: bytes by hand, laws, the noise's variance, the accountant, and what an attack gets from what is left."""

import math
from types import SimpleNamespace

import pytest
import torch
from scipy import stats

from dua_lightning.errors import InputError
from dua_lightning.importance import MAS, Averaged, Clipped, averaged
from dua_lightning.importance.clipped import norm
from dua_lightning.nets import mlp
from dua_lightning.privacy.release import (
    BF16,
    Chain,
    Gaussian,
    Int8,
    LeastImages,
    Levels,
    Plain,
    Release,
    Released,
    TopK,
    send,
)
from dua_lightning.privacy.release import gaussian as module
from dua_lightning.tasks import Expert, Prior, Task
from tests.helpers.nets import close, equal
from tests.reference import averaged_loop, gaussian_privacy

SHAPES = {"conv": (3, 2, 2, 2), "bias": (3,), "one": (), "table": (20, 50)}
NUMBERS = 24 + 3 + 1 + 1000


def prior(seed: int = 0) -> Prior:
    stream = torch.Generator().manual_seed(seed)
    return {name: torch.rand(shape, generator=stream) ** 4 for name, shape in SHAPES.items()}


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def private(clip: float = 10.0, sigma: float = 1.0, **settings: object) -> Gaussian:
    if sigma:
        pytest.importorskip("dp_accounting", reason="dp-accounting is not installed")
    return Gaussian(clip, sigma, **settings)


PLAIN_ONES = [
    *(Plain(), LeastImages(3), BF16(), Int8(), Int8(3, "nearest"), TopK(0.1), TopK(0), TopK(1)),
    *(Levels("channel"), Levels("layer"), Levels("expert"), Chain([Levels("channel"), Int8()])),
]


@pytest.mark.parametrize("release", PLAIN_ONES, ids=repr)
def test_a_release_gives_a_prior_that_a_merge_takes_and_no_guarantee(release: Release) -> None:
    made, untouched = release(prior(), 5, stream()), prior()
    assert {name: omega.shape for name, omega in made.prior.items()} == {n: torch.Size(s) for n, s in SHAPES.items()}
    assert all(omega.dtype == torch.float32 for omega in made.prior.values())
    assert all(((omega >= 0) & omega.isfinite()).all() for omega in made.prior.values())
    assert (made.epsilon, made.delta) == (None, None)
    equal(prior(), untouched)
    equal(
        release({name: omega * 0 for name, omega in prior().items()}, 5, stream()).prior["table"], torch.zeros(20, 50)
    )


@pytest.mark.parametrize(
    ("release", "sent"),
    [
        (Plain(), 4 * NUMBERS),
        (LeastImages(5), 4 * NUMBERS),
        (BF16(), 2 * NUMBERS),
        (Int8(), NUMBERS + 4 * 4),
        # 24, 3, 1 and 1000 numbers of 3 bits fill 9, 2, 1 and 375 bytes.
        (Int8(3), 9 + 2 + 1 + 375 + 4 * 4),
        (Levels("weight"), 4 * NUMBERS),
        (Levels("channel"), 4 * (3 + 3 + 1 + 20)),
        (Levels("layer"), 4 * 4),
        (Levels("expert"), 4),
        # Numbers, their places as bits or, for one of 1000, as a number, and the rest's mean.
        (TopK(0.001), (4 + 3 + 4) + (4 + 1 + 4) + 4 + (4 + 4 + 4)),
        (TopK(0.5), (48 + 3 + 4) + (8 + 1 + 4) + 4 + (2000 + 125 + 4)),
        (TopK(0), 4 * 4),
        (TopK(1), 4 * NUMBERS),
        (Chain([Levels("channel"), BF16()]), 2 * (3 + 3 + 1 + 20)),
        (Chain([Levels("expert"), Int8()]), 1 + 4),
    ],
    ids=repr,
)
def test_bytes_are_those_of_the_numbers_that_are_sent(release: Release, sent: int) -> None:
    assert release(prior(), 5, stream()).sent == sent


def test_numbers_that_a_tied_weight_or_a_coarse_importance_shares_are_sent_once() -> None:
    weight = torch.rand(4, 4)
    assert Plain()({"first": weight, "second": weight}, 1, stream()).sent == 64
    tied = Int8()({"first": weight, "second": weight}, 1, stream())
    equal(tied.prior["first"], tied.prior["second"])
    assert tied.sent == 20
    assert Plain()(averaged(prior(), "layer"), 1, stream()).sent == 16


def test_levels_are_the_means_of_an_averaged_importance() -> None:
    for level in ("channel", "layer", "expert"):
        made = Levels(level)({name: omega.double() for name, omega in prior().items()}, 1, stream())
        close(made.prior, averaged_loop.averaged({name: omega.double() for name, omega in prior().items()}, level))


def test_rounding_is_within_a_step_and_unbiased_rounding_is_right_on_average() -> None:
    omega = prior()["table"]
    step = float(omega.max()) / 255
    nearest, unbiased = (Int8(8, kind)(prior(), 1, stream()).prior["table"] for kind in ("nearest", "unbiased"))
    assert (nearest - omega).abs().max() <= step / 2 * 1.001
    assert (unbiased - omega).abs().max() <= step * 1.001
    assert unbiased.max() == pytest.approx(float(omega.max()))
    draws = torch.stack([Int8(1)({"o": omega}, 1, stream(i)).prior["o"] for i in range(400)])
    assert ((draws.mean(0) - omega).abs() <= 5 * float(omega.max()) / 2 / math.sqrt(400)).all()
    # One bit to the nearest loses all that is below half of the largest.
    coarse = Int8(1, "nearest")({"o": omega}, 1, stream()).prior["o"]
    equal(coarse == 0, omega < omega.max() / 2)


def test_the_largest_numbers_stay_and_the_sum_is_kept() -> None:
    omega = prior()["table"]
    made = TopK(0.1)({"table": omega}, 1, stream()).prior["table"]
    large = omega >= omega.flatten().sort(descending=True).values[99]
    equal(made[large], omega[large])
    assert made[~large].unique().numel() == 1
    assert float(made.sum()) == pytest.approx(float(omega.sum()), rel=1e-5)


def test_a_prior_of_too_few_images_is_refused_with_the_reason() -> None:
    assert LeastImages(20)(prior(), 20, stream()).prior is not None
    with pytest.raises(InputError, match=r"a prior of 19 images is not sent, since it can show them.*images=20"):
        LeastImages(20)(prior(), 19, stream())


def test_noise_has_the_stated_variance_and_is_clamped_at_0() -> None:
    images, clip, sigma = 7, 2.0, 3.0
    far = torch.full((200, 200), 1e-3)
    release = private(clip, sigma)
    made = release({"w": far}, images, stream()).prior["w"]
    assert made.min() == 0
    assert float((made == 0).double().mean()) == pytest.approx(0.5, abs=0.02)
    noise = made[made > 0].double()
    deviation = sigma * clip / images
    # Above 0 it is half of a normal distribution.
    assert stats.kstest(noise, stats.halfnorm(scale=deviation).cdf).pvalue > 1e-3
    squares = float(noise.square().sum()) / deviation**2
    low, high = stats.chi2(len(noise)).ppf([0.0005, 0.9995])
    assert low < squares < high


def test_noise_falls_with_images_and_differs_between_weights_and_streams() -> None:
    release, zero = private(1.0, 1.0), {"a": torch.zeros(1000), "b": torch.zeros(1000)}
    few, many = (release(zero, images, stream()).prior for images in (1, 100))
    close(few["a"] / 100, many["a"], 1e-5)
    assert not torch.equal(few["a"], few["b"])
    assert not torch.equal(few["a"], release(zero, 1, stream(1)).prior["a"])


@pytest.mark.parametrize("sigma", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("delta", [1e-5, 1e-3])
def test_epsilon_is_the_closed_form_of_one_gaussian_release_and_the_accountants(sigma: float, delta: float) -> None:
    accounting = pytest.importorskip("dp_accounting", reason="dp-accounting is not installed")
    made = private(3.0, sigma, delta=delta)({"w": torch.zeros(2)}, 5, stream())
    assert made.delta == delta
    assert made.epsilon == pytest.approx(gaussian_privacy.epsilon(sigma, delta), rel=1e-6)
    accountant = accounting.pld.PLDAccountant()
    accountant.compose(accounting.GaussianDpEvent(sigma))
    assert made.epsilon == pytest.approx(accountant.get_epsilon(delta), rel=1e-3)


def test_several_messages_compose_as_the_accountant_says() -> None:
    accounting = pytest.importorskip("dp_accounting", reason="dp-accounting is not installed")
    accountant = accounting.pld.PLDAccountant()
    accountant.compose(accounting.SelfComposedDpEvent(accounting.GaussianDpEvent(2.0), 3))
    assert private(1.0, 2.0, rounds=3).epsilon == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-3)
    assert private(1.0, 2.0, rounds=2).epsilon == pytest.approx(private(1.0, 2.0, neighbours="replace").epsilon)
    assert private(1.0, 0.0).epsilon == math.inf


def test_without_a_bound_and_without_noise_it_is_the_plain_prior() -> None:
    equal(private(math.inf, 0.0)(prior(), 5, stream()).prior, prior())


def test_a_level_is_the_mean_of_the_noisy_weights() -> None:
    omega = {name: o.double() * 0.01 for name, o in prior().items()}
    fine, coarse = (private(1e6, 1e-8, level=level)(omega, 1, stream()) for level in ("weight", "layer"))
    assert coarse.sent == 8 * 4
    assert norm({"t": coarse.prior["table"] - omega["table"].mean()}) > 0
    # The noise falls by the root of the numbers that are averaged.
    noise = [
        private(1.0, 1.0, level="layer")({"w": torch.full((100, 100), 9e-3)}, 1, stream(i)).prior["w"][0, 0]
        for i in range(100)
    ]
    # Half of a normal distribution of mean 0.009 and deviation 1 / 100.
    assert (
        stats.kstest([float(one) for one in noise if one > 0], stats.truncnorm(-0.9, 99, 0.009, 0.01).cdf).pvalue > 1e-3
    )
    assert fine.epsilon == coarse.epsilon


def test_noise_on_what_was_not_clipped_is_refused() -> None:
    with pytest.raises(InputError, match=r"a mean of clipped images has at most clip=0\.1"):
        private(0.1)(prior(), 5, stream())
    assert private(3.0).measured(MAS()) == Clipped(MAS(), 3.0)
    with pytest.raises(InputError, match="per_sample"):
        private(3.0).measured(Averaged(MAS()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sigma": -1}, "sigma=-1"),
        ({"sigma": math.inf}, "sigma=inf"),
        ({"clip": 0}, "clip=0"),
        ({"clip": math.inf}, "clip is finite where sigma is not 0"),
        ({"delta": 0}, "delta=0"),
        ({"delta": 1}, "delta=1"),
        ({"rounds": 0}, "rounds=0"),
        ({"level": "pixel"}, "pixel is not one of weight, channel, layer, expert"),
        ({"neighbours": "users"}, "users is not one of add_or_remove, replace"),
    ],
)
def test_settings_of_noise_that_cannot_be_used_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Gaussian(**{"clip": 1.0, "sigma": 1.0, **settings})


def test_without_the_accountant_there_is_one_line_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "importlib", SimpleNamespace(util=SimpleNamespace(find_spec=lambda name: None)))
    with pytest.raises(InputError, match=r"dp-accounting, which is missing; pip install 'dua_lightning\[privacy\]'"):
        Chain([Gaussian(1.0, 1.0)]).check()
    assert Gaussian(1.0, 0.0).epsilon == math.inf


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LeastImages(0), "images=0"),
        (lambda: Levels("pixel"), "weight, channel, layer, expert, got pixel"),
        (lambda: Int8(9), "bits=9"),
        (lambda: Int8(0), "bits=0"),
        (lambda: Int8(8, "up"), "unbiased or nearest, got up"),
        (lambda: TopK(1.5), "share=1.5"),
        (lambda: Chain([]), "at least one release"),
        (lambda: Chain([Plain(), 5]), r"steps\[1\] of a chain is a int"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(make: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_a_chain_keeps_the_guarantee_of_its_first_step_and_clips_before_all_else() -> None:
    noise = private(20.0, 1.0)
    chain = Chain([LeastImages(2), noise, Levels("channel"), BF16()])
    made = chain(prior(), 5, stream())
    assert (made.epsilon, made.delta, made.sent) == (noise.epsilon, 1e-5, 2 * 27)
    assert chain.measured(MAS()) == Clipped(MAS(), 20.0)
    assert Chain([BF16()]).measured(MAS()) == MAS()
    equal(
        made.prior, BF16()(Levels("channel")(noise(prior(), 5, stream()).prior, 5, stream()).prior, 5, stream()).prior
    )
    with pytest.raises(InputError, match=r"steps\[1\] of a chain clips .* and TopK before it .*; put it first"):
        Chain([TopK(0.5), noise])


def test_each_prior_of_a_user_is_released_with_a_stream_of_its_own_and_none_of_no_images() -> None:
    zeros = {name: omega * 0 for name, omega in prior().items()}
    got, facts = send(Int8(2), [prior(), prior(), zeros], [5, 5, 0], 1, "ann", 1)
    assert not torch.equal(got[0]["table"], got[1]["table"])
    equal(got, send(Int8(2), [prior(), prior(), zeros], [5, 5, 0], 1, "ann", 1)[0])
    assert not torch.equal(got[0]["table"], send(Int8(2), [prior()], [5], 1, "ben", 1)[0][0]["table"])
    assert [(one.images, one.plain, one.sent) for one in facts] == [(5, 4 * NUMBERS, 6 + 1 + 1 + 250 + 16)] * 2 + [
        (0, 0, 0)
    ]
    assert math.isnan(facts[0].epsilon)
    assert got[2] is zeros


# One image of an MLP, and the factorisation of its prior: a row of the first layer over its bias is the image.
NET = mlp((1, 8, 8), 4, seed=1, width=32)
EXPERT = Expert(Task("t", slice(0, 4)), NET.state_dict())
IMAGE = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(3))


def attacked(sent: Prior) -> float:
    """The correlation of the image with the best rank-one factor of the first layer's prior."""
    _, _, factors = torch.linalg.svd(sent["body.1.weight"].double())
    if factors[0].std() < 1e-6:
        return 0.0  # all pixels are the same
    return abs(float(torch.corrcoef(torch.stack([factors[0], IMAGE.flatten().double()]))[0, 1]))


STRENGTHS: dict[str, list[object]] = {
    "top_k": [TopK(share) for share in (1, 0.2, 0.03, 0.002)],
    "bits": [Int8(bits) for bits in (8, 4, 2, 1)],
    "levels": [Levels(level) for level in ("weight", "channel", "layer", "expert")],
    "noise": [0.0, 0.003, 0.02, 0.3],
}


@pytest.mark.parametrize("kind", STRENGTHS)
def test_a_stronger_release_is_farther_from_the_plain_prior_and_shows_less_of_the_image(kind: str) -> None:
    distances, seen = [], []
    for strength in STRENGTHS[kind]:
        release = private(norm(MAS()(NET, EXPERT, [(IMAGE, None)])), strength) if kind == "noise" else strength
        psi = release.measured(MAS()) if isinstance(release, Gaussian) else MAS()
        plain = psi(NET, EXPERT, [(IMAGE, None)])
        made = [release(plain, 1, stream(i)) for i in range(5)]
        distances.append(sum(norm({name: one.prior[name] - plain[name] for name in plain}) for one in made))
        seen.append(sum(attacked(one.prior) for one in made) / len(made))
    assert distances == sorted(distances)
    assert distances[0] < distances[-1]
    assert seen == sorted(seen, reverse=True)
    assert seen[0] > 0.999
    assert seen[-1] < 0.9


def test_a_released_prior_says_what_it_is() -> None:
    assert Released({}, 0) == Released({}, 0, None, None)
