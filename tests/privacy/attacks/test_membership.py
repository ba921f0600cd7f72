"""Membership by coverage."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from dua_lightning.importance import FIM, MAS, Averaged, Importance, Noise
from dua_lightning.privacy.attacks import Known, auc, coverage
from tests.helpers.nets import labels
from tests.privacy.attacks.cases import WIDE

COUNT = 6


@pytest.mark.parametrize("psi", [MAS(), FIM(), Averaged(MAS(), "channel"), Averaged(FIM(), "layer")])
def test_a_prior_covers_each_of_its_images(psi: Importance) -> None:
    net, expert, x, y = WIDE.build(), WIDE.expert(), WIDE.images(COUNT), labels(COUNT)
    known = Known(net, expert, psi, psi(net, expert, [(x, y)]), COUNT)
    assert (coverage(known, (x, y)) > -1e-9).all()


@pytest.mark.parametrize("psi", [MAS(), FIM()])
def test_members_are_told_from_others_and_noise_tells_nothing(psi: Importance) -> None:
    net, expert, x, y = WIDE.build(), WIDE.expert(), WIDE.images(COUNT), labels(COUNT)
    others = WIDE.images(40, seed=7), labels(40, seed=7)
    known = Known(net, expert, psi, psi(net, expert, [(x, y)]), COUNT)
    assert auc(coverage(known, (x, y)), coverage(known, others)).low > 0.9
    noise = Known(net, expert, psi, Noise(psi)(net, expert, [(x, y)]), COUNT)
    more = WIDE.images(40, seed=8), labels(40, seed=8)
    found = auc(coverage(noise, more), coverage(noise, others))
    assert found.low <= 0.5 <= found.high


def test_the_area_is_that_of_the_curve_and_one_half_for_random_scores() -> None:
    stream = np.random.default_rng(0)
    members, others = stream.integers(5, size=30) + 1.0, stream.integers(5, size=20) * 1.0
    truth = np.arange(50) < 30
    assert auc(members, others).area == pytest.approx(roc_auc_score(truth, np.concatenate([members, others])))
    same = auc(stream.normal(size=500), stream.normal(size=500))
    assert same.low < 0.5 < same.high
    assert same.high - same.low < 0.1
    assert auc(np.ones(4), np.full(4, -np.inf))[:] == (1, 1, 1)
    assert auc(np.ones(4), np.ones(4))[:] == (0.5, 0.5, 0.5)
