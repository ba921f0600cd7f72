"""An adaptation on a few images is that on those images alone, whatever it asks for."""

import pytest
import torch

from dua_lightning.adapt import BBSE, AdaBN, AdaBNS, AdaBNSReleased, Adapt, Chain, Few, LabelShift, Unchanged
from dua_lightning.adapt.base import OfExpert, OfServer, asks
from dua_lightning.errors import InputError
from tests.adapt.test_adabn import IMAGES, shifted
from tests.adapt.users import TRAINED, images, trained
from tests.helpers.nets import BATCH_NORM, TASK, batches, close, equal, labels, untouched
from tests.reference.adabn_loop import adabn


@pytest.mark.parametrize("adapt", [AdaBN(), AdaBN(statistics="batch"), AdaBNS(epochs=2, lr=0.1)], ids=str)
@pytest.mark.parametrize("count", [2, 3, 5, 6, 20])
def test_a_few_images_are_the_first_of_the_first_pass(count: int, adapt: Adapt) -> None:
    net, state, x, y = IMAGES.build(), IMAGES.expert().state, shifted(IMAGES, 8), labels(8)
    with untouched(net, state):
        few = Few(adapt, count)(net, state, TASK, batches(x, y, 3))
    equal(few, adapt(net, state, TASK, batches(x[:count], y[:count], 3)))


def test_a_few_images_match_the_loop() -> None:
    before, x = IMAGES.expert().state, shifted(IMAGES)
    net = IMAGES.build()
    net.load_state_dict(before)
    expected = dict(before)
    for name, (mean, var) in adabn(net, x[:4]).items():
        expected[f"{name}.running_mean"], expected[f"{name}.running_var"] = mean, var
    close(Few(AdaBN(), 4)(IMAGES.build(), before, TASK, batches(x, None, 3)), expected)


@pytest.mark.parametrize(("count", "exact", "batch"), [(7, 7, 1), (1, 1, 1), (4, 4, 1), (5, 5, 2), (6, 6, 3)])
def test_a_few_images_may_be_too_few_to_normalise(count: int, exact: int, batch: int) -> None:
    assert Few(AdaBN(), count).normalised_together([3, 3, 1]) == exact
    assert Few(AdaBN(statistics="batch"), count).normalised_together([3, 3, 1]) == batch
    assert Few(LabelShift(), count).normalised_together([3, 3, 1]) == 2
    with pytest.raises(InputError, match="at least 1 image"):
        Few(AdaBN(), 0)


def test_what_the_other_adaptation_asks_for_reaches_it() -> None:
    net, state, data = BATCH_NORM.build(), BATCH_NORM.expert().state, batches(BATCH_NORM.images(6), labels(6), 3)
    released, expert = AdaBNSReleased(epochs=1), BATCH_NORM.expert(5)
    assert asks(Few(released), OfExpert)
    assert not asks(Few(AdaBN()), OfExpert)
    equal(Few(released).of(expert)(net, state, TASK, data), released.of(expert)(net, state, TASK, data))
    server = [images(60, seed=5)]
    few = Few(Chain([AdaBN(), BBSE()])).with_server(TRAINED.build(), trained(), TASK, server)
    assert asks(few, OfServer)
    close(few.adapt.steps[1].confusions, BBSE().with_server(TRAINED.build(), trained(), TASK, server).confusions)
    assert Few(AdaBN()).with_server(TRAINED.build(), trained(), TASK, server) == Few(AdaBN())


def test_it_is_as_the_other_adaptation_is() -> None:
    net = TRAINED.build()
    few = Few(AdaBNS())
    assert (few.needs_labels, few.trainable(net)) == (True, AdaBNS().trainable(net))
    assert not Few(Unchanged()).needs_labels
    with pytest.raises(InputError, match="BatchNorm"):
        Few(AdaBN()).check(torch.nn.Sequential(torch.nn.Linear(2, 2)))
