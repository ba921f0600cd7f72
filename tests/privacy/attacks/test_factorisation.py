"""Factorising the first layer's importances: exact where theory says so, and nothing on the controls."""

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr
from torch import nn

from dua_lightning.errors import InputError
from dua_lightning.importance import FIM, MAS, Averaged, Importance, Noise
from dua_lightning.nets import Network
from dua_lightning.privacy.attacks import Known, correlations, factorise, matched, patches
from dua_lightning.tasks import Expert
from tests.helpers.nets import labels
from tests.privacy.attacks.cases import WIDE
from tests.reference.mas_loop import mas

IMPORTANCES = pytest.mark.parametrize("psi", [MAS(), FIM()], ids=["MAS", "FIM"])


def message(psi: Importance, count: int, noise: bool = False) -> tuple[Known, torch.Tensor]:
    net, expert, x = WIDE.build(), WIDE.expert(), WIDE.images(count)
    prior = (Noise(psi) if noise else psi)(net, expert, [(x, labels(count))])
    return Known(net, expert, psi, prior, count), x


@IMPORTANCES
def test_a_single_image_comes_back_exactly_and_not_from_noise(psi: Importance) -> None:
    known, x = message(psi, 1)
    guess = factorise(known).inputs
    torch.testing.assert_close(guess, x.abs().flatten(1), rtol=1e-6, atol=1e-8)
    assert correlations(guess, x.abs())[0, 0] > 0.999
    # Another image, and the importance of noise.
    assert correlations(guess, WIDE.images(1, seed=5).abs())[0, 0] < 0.9
    assert correlations(factorise(message(psi, 1, noise=True)[0]).inputs, x.abs())[0, 0] < 0.9


def test_the_importances_of_a_unit_are_those_of_its_bias_times_the_image() -> None:
    """The formula that the attack stands on, by one image and one backward pass at a time."""
    net, expert, x = WIDE.build(), WIDE.expert(), WIDE.images(3)
    terms = [mas(net, expert, one[None]) for one in x]
    by_hand = sum(term["body.1.bias"][:, None] * one.abs().flatten() for term, one in zip(terms, x, strict=True)) / 3
    torch.testing.assert_close(mas(net, expert, x)["body.1.weight"], by_hand)


def test_two_different_images_come_back_matched_with_their_own_guess() -> None:
    known, _ = message(MAS(), 2)
    x = torch.zeros(2, *WIDE.shape, dtype=torch.float64)
    x.view(2, -1)[0, ::2] = 1
    x.view(2, -1)[1, 1::3] = 1
    known = Known(known.net, known.expert, MAS(), MAS()(known.net, known.expert, [(x, None)]), 2)
    found, places = matched(correlations(factorise(known).inputs, x))
    assert (found > 0.99).all()
    assert sorted(places) == [0, 1]


def test_a_prior_of_one_number_for_a_unit_shows_no_image() -> None:
    known, x = message(MAS(), 1)
    coarse = Averaged(MAS(), "channel")
    known = Known(known.net, known.expert, coarse, coarse(known.net, known.expert, [(x, None)]), 1)
    assert correlations(factorise(known).inputs, x.abs())[0, 0] == 0


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_correlations_are_numpys_and_0_with_a_constant(scale: float) -> None:
    numbers = WIDE.images(3).flatten(1)
    np.testing.assert_allclose(correlations(scale * numbers, numbers), np.corrcoef(numbers), atol=1e-12)
    # The mean of so many numbers 0.1 is now and then not 0.1.
    for count in range(3, 50):
        constant = torch.full((1, count), 0.1 * scale, dtype=torch.float64)
        assert (correlations(constant, numbers[:, :count]) == 0).all()


def test_of_a_convolution_no_more_parts_come_back_than_it_has_filters() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Flatten())
        net = Network(body, nn.Linear(100, 6)).double()
    x = WIDE.images(50)
    expert = Expert(WIDE.expert().task, net.state_dict())
    known = Known(net, expert, MAS(), MAS()(net, expert, [(x, None)]), 50)
    factors = factorise(known)
    assert (factors.layer, *factors.inputs.shape) == ("body.0", 4, 18)
    assert patches(net, "body.0", [x]).shape == (50 * 25, 18)
    torch.testing.assert_close(patches(net, "body.0", [x])[6], x[0, :, :3, :3].flatten())


def test_what_is_not_there_is_refused() -> None:
    known, _ = message(MAS(), 1)
    with pytest.raises(InputError, match="no importances of head"):
        factorise(known, "head")
    with pytest.raises(InputError, match="at least 1 image"):
        Known(known.net, known.expert, MAS(), known.prior, 0)
    with pytest.raises(InputError, match=r"body\.1"):
        patches(known.net, "body.1", [])


def test_correlations_are_pearsons_and_the_matching_is_the_best() -> None:
    stream = np.random.default_rng(0)
    a, b = stream.normal(size=(3, 7)), stream.normal(size=(2, 7))
    found = correlations(torch.from_numpy(a), torch.from_numpy(b))
    np.testing.assert_allclose(found, [[pearsonr(one, other)[0] for other in b] for one in a])
    best = max(found[i, 0] + found[j, 1] for i in range(3) for j in range(3) if i != j)
    assert matched(found)[0].sum() == pytest.approx(best)
    scores, places = matched(np.array([[0.2, 0.9]]))
    assert (scores.tolist(), places.tolist()) == ([0, 0.9], [-1, 0])
