"""Inversion by matching whole priors."""

import torch
from torch import nn

from dua_lightning.importance import FIM, MAS, Averaged, Noise
from dua_lightning.nets import Network
from dua_lightning.privacy.attacks import Known, correlations, invert
from dua_lightning.tasks import Expert, Task

SHAPE = (1, 5, 5)


def small() -> tuple[Network, Expert]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(200, 16), nn.ReLU())
        net = Network(body, nn.Linear(16, 3)).double()
    return net, Expert(Task("all", slice(0, 3)), net.state_dict())


def test_a_picture_comes_back_from_its_importances_and_not_from_those_of_noise() -> None:
    net, expert = small()
    picture = torch.zeros(1, *SHAPE, dtype=torch.float64)
    picture[..., 1:4, 2] = 2
    found = []
    for psi in (MAS(), Noise(MAS())):
        known = Known(net, expert, MAS(), psi(net, expert, [(picture, None)]), 1)
        guess = invert(known, SHAPE, torch.Generator().manual_seed(0), steps=100, starts=2)
        found.append(correlations(guess, picture)[0, 0])
    assert found[0] > 0.8
    assert found[1] < 0.5


def test_it_takes_labels_and_coarse_priors_and_leaves_the_network_as_it_was() -> None:
    net, expert = small()
    net.train()
    x, y = torch.randn(2, *SHAPE, dtype=torch.float64), torch.tensor([0, 2])
    psi = Averaged(FIM(), "channel")
    known = Known(net, expert, psi, psi(net, expert, [(x, y)]), 2)
    guess = invert(known, SHAPE, torch.Generator().manual_seed(0), labels=y, steps=3)
    assert guess.shape == (2, *SHAPE)
    assert guess.isfinite().all()
    assert net.training
    assert all(p.grad is None for p in net.parameters())
    again = invert(known, SHAPE, torch.Generator().manual_seed(0), labels=y, steps=3)
    torch.testing.assert_close(again, guess, rtol=0, atol=0)
