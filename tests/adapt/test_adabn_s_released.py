"""The released AdaBN-S: gamma and beta of the reset, unmerged expert, tuned; nothing else of the user arrives."""

import pytest
import torch
from torch import nn

from dua_lightning.adapt import AdaBNSReleased
from dua_lightning.adapt.base import OfExpert
from dua_lightning.errors import InputError
from dua_lightning.params import batch_norm_affine
from tests.helpers.nets import BATCH_NORM, TASK, batch_norms, batches, close, equal, labels, untouched

EXPERT = BATCH_NORM.expert(3)


def data() -> list[tuple[torch.Tensor, torch.Tensor]]:
    return batches(3 * BATCH_NORM.images(12) + 5, labels(12), 4)


def test_gamma_and_beta_are_those_of_sgd_on_the_reset_expert() -> None:
    plain = BATCH_NORM.build()
    plain.load_state_dict(EXPERT.state)
    plain.eval()
    for layer in batch_norms(plain):
        layer.train()
        if layer.affine:
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)
    theta = batch_norm_affine(plain)
    velocity = {name: torch.zeros_like(p) for name, p in theta.items()}
    for _ in range(2):
        for x, y in data():
            loss = nn.functional.cross_entropy(plain(x)[:, TASK.classes], y - TASK.classes.start)
            for (name, p), g in zip(theta.items(), torch.autograd.grad(loss, list(theta.values())), strict=True):
                velocity[name].mul_(0.9).add_(g)
                p.data -= 0.1 * velocity[name]

    net, state = BATCH_NORM.build(), BATCH_NORM.expert(1).state
    with untouched(net, state):
        after = AdaBNSReleased(2, lr=0.1).of(EXPERT)(net, state, TASK, data())
    close({name: after[name] for name in theta}, {name: p.detach() for name, p in theta.items()})
    assert all(after[name] is state[name] for name in state if name not in theta)


def test_the_merged_model_has_no_say_in_what_is_tuned() -> None:
    adapt = AdaBNSReleased(1).of(EXPERT)
    one, two = (adapt(BATCH_NORM.build(), BATCH_NORM.expert(k).state, TASK, data()) for k in (1, 2))
    equal(*({name: after[name] for name in batch_norm_affine(BATCH_NORM.build())} for after in (one, two)))


def test_without_an_expert_it_says_what_it_needs() -> None:
    adapt = AdaBNSReleased()
    assert isinstance(adapt, OfExpert)
    with pytest.raises(InputError, match=f"expert of task {TASK.name}"):
        adapt(BATCH_NORM.build(), BATCH_NORM.expert().state, TASK, data())
