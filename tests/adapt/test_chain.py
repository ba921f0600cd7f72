"""A chain is its steps one after another, and asks for what they ask for."""

from typing import Any

import pytest
import torch

from dua_lightning.adapt import AdaBN, AdaBNS, AdaBNSReleased, BalancedBN, Chain, Few, Finetune, LabelShift, Unchanged
from dua_lightning.adapt.base import OfExpert, asks, moments
from dua_lightning.errors import InputError
from tests.adapt.users import EVEN, SKEWED, TRAINED, images, scores, trained
from tests.helpers.nets import BATCH_NORM, MLP, PLAIN, TASK, batches, equal, labels, untouched


def test_each_step_adapts_what_the_step_before_it_made() -> None:
    net, state, data = TRAINED.build(), trained(), batches(images(30, SKEWED, shifted=True)[0], None, 7)
    with untouched(net, state):
        found = Chain([AdaBN(), LabelShift()])(net, state, TASK, data)
    equal(found, LabelShift()(net, AdaBN()(net, state, TASK, data), TASK, data))
    assert any(not torch.equal(found[name], t) for name, t in AdaBN()(net, state, TASK, data).items())
    equal(Chain([AdaBN()])(net, state, TASK, data), AdaBN()(net, state, TASK, data))
    equal(Chain([Unchanged()])(net, state, TASK, data), state)


def test_it_needs_what_a_step_needs() -> None:
    assert not Chain([AdaBN(), LabelShift()]).needs_labels
    assert Chain([AdaBN(), AdaBNS()]).needs_labels
    Chain([LabelShift()]).check(MLP.build())
    for steps, net in (([LabelShift(), AdaBN()], MLP), ([AdaBN(), LabelShift()], PLAIN)):
        with pytest.raises(InputError, match="needs"):
            Chain(steps).check(net.build())
    net = BATCH_NORM.build()
    both = Chain([AdaBNS(), Finetune()])
    assert both.trainable(net) == Finetune().trainable(net) > AdaBNS().trainable(net)


def test_the_fewest_images_that_are_normalised_together_are_those_of_a_step() -> None:
    assert Chain([AdaBN(), AdaBNS(), LabelShift()]).normalised_together([5, 1, 3]) == 1
    assert Chain([AdaBN(), LabelShift()]).normalised_together([5, 1, 3]) == 9
    assert Chain([LabelShift()]).normalised_together([1]) == 2


def test_the_expert_reaches_the_step_that_asks_for_it() -> None:
    data = [(BATCH_NORM.images(6), labels(6))]
    expert, state = BATCH_NORM.expert(3), BATCH_NORM.expert().state
    chain = Chain([AdaBN(), Chain([AdaBNSReleased(lr=0.1)])])
    assert asks(chain, OfExpert)
    assert not asks(Chain([AdaBN()]), OfExpert)
    found = chain.of(expert)(BATCH_NORM.build(), state, TASK, data)
    steps = AdaBN(), AdaBNSReleased(lr=0.1).of(expert)
    equal(found, Chain(steps)(BATCH_NORM.build(), state, TASK, data))


def test_it_takes_statistics_as_its_steps_do() -> None:
    assert moments(Chain([AdaBN(), LabelShift()])) == "exact"
    assert moments(Chain([LabelShift(), Few(AdaBN(statistics="batch")), AdaBNS()])) == "batch and exact"
    assert moments(Chain([LabelShift(), Unchanged()])) == "none"


@pytest.mark.parametrize(
    ("steps", "match"), [([], "at least one adaptation in steps"), ([AdaBN(), 3], r"steps\[1\] of")]
)
def test_a_list_that_is_no_chain_is_an_input_error(steps: list[Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        Chain(steps)


def test_balanced_statistics_and_the_heads_biases_help_where_both_have_shifted() -> None:
    chain = Chain([BalancedBN(3), LabelShift()])
    before, after = scores(chain, SKEWED, shifted=True)
    assert after > before + 10
    before, after = scores(chain, EVEN, shifted=False)
    assert after > before - 1.5
