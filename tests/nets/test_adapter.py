"""The last layer of any network becomes its head."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

from dua_lightning.errors import InputError
from dua_lightning.nets import Network, with_head
from dua_lightning.params import body_names
from tests.helpers.nets import untouched

SHAPE = (2, 3)


def named() -> nn.Module:
    layers = [("flat", nn.Flatten()), ("first", nn.Linear(6, 4)), ("drop", nn.Dropout(0.5))]
    return nn.Sequential(OrderedDict([*layers, ("last", nn.Sequential(nn.Tanh(), nn.Linear(4, 5)))]))


def test_the_layer_becomes_the_head_and_the_logits_stay() -> None:
    x, net = torch.randn(3, *SHAPE), named()
    before, last = net.eval()(x), net.last[1]
    net.train()
    made = with_head(net, "last.1", SHAPE)
    assert made.head is last
    assert all(module.training for module in made.modules())
    assert body_names(made).keys() == {"body.first.weight", "body.first.bias"}
    torch.testing.assert_close(made.eval()(x), before, rtol=0, atol=0)


def test_a_network_whose_head_has_its_name_stays_as_it_is() -> None:
    net = Network(nn.Flatten(), nn.Linear(6, 5))
    with untouched(net):
        assert with_head(net, "head", SHAPE) is net


@pytest.mark.parametrize(
    ("place", "shape", "said"),
    [
        ("fc", SHAPE, "this Sequential has no linear layer fc; it has first, last.1"),
        ("last", SHAPE, "no linear layer last;"),
        ("first", SHAPE, "first is not the last step of this Sequential; give the name of its last linear layer"),
        ("last.1", (3, 3), r"Sequential cannot take inputs of the shape \(3, 3\)"),
    ],
)
def test_what_cannot_be_the_head_is_one_line(place: str, shape: tuple[int, ...], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        with_head(named(), place, shape)
    assert "\n" not in str(caught.value)


def test_a_layer_that_is_followed_by_another_step_is_no_head() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(6, 6), nn.Tanh())
    with pytest.raises(InputError, match="1 is not the last step"):
        with_head(net, "1", SHAPE)


def test_it_takes_a_network_without_numbers() -> None:
    with torch.device("meta"):
        assert isinstance(with_head(named(), "last.1", SHAPE), Network)
