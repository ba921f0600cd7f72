"""The released AdaBN resets gamma and beta, and nothing of the user reaches the model."""

import pytest
import torch
from torch import nn

from dua_lightning.adapt import AdaBN, AdaBNReleased
from dua_lightning.errors import InputError
from tests.helpers.nets import BATCH_NORM, MLP, TASK, untouched


def test_gamma_is_1_and_beta_0_and_the_rest_is_the_servers() -> None:
    net, state = BATCH_NORM.build(), BATCH_NORM.expert().state
    layers = {name for name, m in net.named_modules() if isinstance(m, nn.BatchNorm2d | nn.BatchNorm1d)}
    with untouched(net, state):
        after = AdaBNReleased()(net, state, TASK, [(BATCH_NORM.images(4), None)])
    for name, tensor in state.items():
        layer, _, kind = name.rpartition(".")
        if layer in layers and kind in ("weight", "bias"):
            assert (after[name] == (kind == "weight")).all()
        else:
            assert after[name] is tensor


def test_it_is_blind_to_the_users_data_where_adabn_is_not() -> None:
    net, state = BATCH_NORM.build(), BATCH_NORM.expert().state
    ours, theirs = (
        [method(net, state, TASK, [(scale * BATCH_NORM.images(4), None)]) for scale in (1, 9)]
        for method in (AdaBN(), AdaBNReleased())
    )
    assert all(torch.equal(theirs[0][name], theirs[1][name]) for name in state)
    assert not all(torch.equal(ours[0][name], ours[1][name]) for name in state)


def test_a_network_without_batch_norm_is_an_input_error() -> None:
    with pytest.raises(InputError, match=r"AdaBN \(released\) needs BatchNorm"):
        AdaBNReleased().check(MLP.build())


def test_a_state_of_other_names_is_an_input_error() -> None:
    state = {f"module.{name}": tensor for name, tensor in BATCH_NORM.expert().state.items()}
    with pytest.raises(InputError, match=r"take module\. off its names"):
        AdaBNReleased()(BATCH_NORM.build(), state, TASK, [])
