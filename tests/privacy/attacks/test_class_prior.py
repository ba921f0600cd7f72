"""Shares of classes from a prior, and from statistics."""

import numpy as np
import pytest
import torch
from torch import nn

from dua_lightning.adapt import AdaBN
from dua_lightning.errors import InputError
from dua_lightning.importance import MAS, Uniform, averaged
from dua_lightning.nets import Network
from dua_lightning.privacy.attacks import (
    ClassPrior,
    bootstrap,
    channel_means,
    mean_features,
    statistics_features,
    t_interval,
    total_variation,
)
from dua_lightning.tasks import Task
from tests.helpers.nets import MLP


def test_a_uniform_prior_tells_no_more_than_the_mean_of_the_simulated_users() -> None:
    prior = Uniform()(MLP.build(), MLP.expert(), [(MLP.images(2), None)])
    shares = np.random.default_rng(0).dirichlet(np.ones(3), 12)
    learner = ClassPrior([mean_features(prior)] * 12, shares)
    guess = learner.guess(mean_features(prior))
    np.testing.assert_allclose(guess, shares.mean(0))
    assert total_variation(guess, shares[0]) == pytest.approx(total_variation(learner.mean, shares[0]))


def test_shares_that_are_linear_in_the_features_are_found() -> None:
    stream = np.random.default_rng(0)
    shares, mixing = stream.dirichlet(np.ones(3), 60), stream.normal(size=(3, 5))
    learner = ClassPrior([*(shares[:50] @ mixing)], shares[:50])
    for true in shares[50:]:
        assert total_variation(learner.guess(true @ mixing), true) < 0.02
    far = learner.guess(np.array([9.0, 0, 0]) @ mixing)
    assert far.min() >= 0
    assert far.sum() == pytest.approx(1)


def test_features_of_a_coarse_prior_are_the_means_that_it_keeps() -> None:
    prior = MAS()(MLP.build(), MLP.expert(), [(MLP.images(3), None)])
    fine, coarse = (mean_features({"w": averaged(prior, level)["body.1.weight"]}) for level in ("weight", "channel"))
    units = len(prior["body.1.weight"])
    np.testing.assert_allclose(fine[: units + 1], coarse[: units + 1])
    np.testing.assert_allclose(coarse[units + 1 :], 1)
    by_hand = prior["body.1.weight"].mean(1) / prior["body.1.weight"].mean()
    np.testing.assert_allclose(fine[1 : units + 1], by_hand)


def test_distances_and_intervals() -> None:
    assert total_variation(np.array([1.0, 0]), np.array([0, 1.0])) == 1
    assert total_variation(np.array([0.5, 0.5]), np.array([0.5, 0.5])) == 0
    # 12.706 standard errors of two numbers that lie 2 apart.
    assert t_interval([1.0, 3.0]) == pytest.approx((2, 2 - 12.706, 2 + 12.706), abs=1e-3)
    assert np.isnan(t_interval([1.0])[1:]).all()
    found = bootstrap(lambda a: float(a.mean()), [np.random.default_rng(0).normal(size=400)])
    assert found.high - found.low == pytest.approx(2 * 1.96 / 20, rel=0.15)


def coloured() -> tuple[Network, torch.Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten())
        return Network(body, nn.Linear(6 * 64, 2)).double(), torch.rand(3, 1, 1, dtype=torch.float64)


def test_statistics_of_plain_pictures_give_their_mean_colour_exactly_and_noise_changes_it_little() -> None:
    net, colour = coloured()
    plain = colour.expand(4, 3, 8, 8)
    stream = torch.Generator().manual_seed(0)
    noisy = plain + 0.3 * torch.randn(plain.shape, generator=stream, dtype=torch.float64)
    found = [
        channel_means(net, AdaBN()(net, net.state_dict(), Task("all", slice(0, 2)), [(x, None)]), (3, 8, 8))
        for x in (plain, noisy)
    ]
    torch.testing.assert_close(found[0], colour.flatten())
    torch.testing.assert_close(found[1], noisy.mean((0, 2, 3)), rtol=0, atol=0.05)
    # The statistics that the server sent tell nothing of the user.
    before = channel_means(net, net.state_dict(), (3, 8, 8))
    assert (before - colour.flatten()).abs().max() > 0.1
    assert len(statistics_features(net, net.state_dict())) == 12


def test_a_network_without_statistics_is_refused() -> None:
    net = MLP.build()
    for attack in (lambda: channel_means(net, net.state_dict(), (3, 8, 8)), lambda: statistics_features(net, {})):
        with pytest.raises(InputError):
            attack()
