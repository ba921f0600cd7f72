"""Label-shift correction: the prior against a loop and a library, and the head that it changes."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dua_lightning.adapt import LabelShift
from dua_lightning.adapt.label_shift import class_prior, posterior
from dua_lightning.errors import InputError
from dua_lightning.params import task_logits
from dua_lightning.tasks import Task
from tests.adapt.users import EVEN, SKEWED, TRAINED, images, scores, trained
from tests.helpers.nets import BATCH_NORM, MLP, PLAIN, TASK, batches, close, equal, labels, untouched
from tests.reference import class_prior_loop


def probabilities(n: int = 30, classes: int = 4, tilt: float = 1.0) -> Tensor:
    stream = torch.Generator().manual_seed(n)
    logits = 2 * torch.randn(n, classes, generator=stream, dtype=torch.float64)
    return (logits + tilt * torch.arange(classes)).softmax(1)


@pytest.mark.parametrize("pseudo_count", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("source", [None, [0.4, 0.3, 0.2, 0.1]])
def test_the_prior_is_that_of_the_loop(source: list[float] | None, pseudo_count: float) -> None:
    p = probabilities()
    expected = class_prior_loop.class_prior(p.tolist(), source or [0.25] * 4, pseudo_count, 7)
    given = None if source is None else torch.tensor(source, dtype=torch.float64)
    found = class_prior(p, given, pseudo_count, tolerance=0, iterations=7)
    close(found, torch.tensor(expected, dtype=torch.float64))
    assert max(found) > 0.4


def test_the_prior_is_that_of_quapy() -> None:
    emq = pytest.importorskip("quapy.method.aggregative").EMQ
    p, source = probabilities(), np.array([0.4, 0.3, 0.2, 0.1])
    expected, corrected = emq.EM(source, p.numpy(), epsilon=1e-9)
    found = class_prior(p, torch.from_numpy(source), tolerance=1e-10, iterations=5000)
    close(found, torch.from_numpy(expected), 1e-4)
    close(posterior(p, found, torch.from_numpy(source)), torch.from_numpy(corrected), 1e-4)


def test_it_is_the_prior_under_which_the_images_are_most_likely() -> None:
    p = probabilities(200, tilt=0.3)
    found = class_prior(p, tolerance=1e-9)

    def likelihood(prior: Tensor) -> float:
        return float((p @ prior).log().sum())

    for c in range(4):
        for step in (-1e-3, 1e-3):
            other = found + step * (torch.arange(4) == c)
            assert likelihood(other / other.sum()) < likelihood(found)


def test_known_frequencies_of_certain_images_are_found() -> None:
    p = torch.eye(3).double()[[0, 0, 0, 1]]
    close(class_prior(p), torch.tensor([0.75, 0.25, 0.0], dtype=torch.float64))
    close(class_prior(p, pseudo_count=2), torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64))
    # Many images that are only thought of say more than four that were seen.
    close(class_prior(p, pseudo_count=1e9), torch.full((3,), 1 / 3, dtype=torch.float64), 1e-6)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_corrected_head_gives_the_corrected_posterior(temperature: float) -> None:
    net, state = TRAINED.build(), trained()
    x, _ = images(50, SKEWED)
    with untouched(net, state):
        after = LabelShift(2, temperature)(net, state, TASK, batches(x, None, 7))
    assert [name for name in state if not torch.equal(after[name], state[name])] == ["head.bias"]
    outside = [0, 1, 5]
    equal(after["head.bias"][outside], state["head.bias"][outside])
    net.eval()
    before, corrected = (
        (task_logits(net, s, x, TASK.classes) / temperature).softmax(1).detach() for s in (state, after)
    )
    prior = class_prior(before, pseudo_count=2)
    close(corrected, posterior(before, prior, torch.full((3,), 1 / 3, dtype=torch.float64)), 1e-6)
    assert prior[0] > 0.6


def test_an_even_prior_changes_nothing() -> None:
    net, state = TRAINED.build(), dict(trained())
    # Whatever the image, all classes are as likely.
    state["head.weight"], state["head.bias"] = torch.zeros(6, 12).double(), torch.arange(6.0).double() // 10
    close(LabelShift()(net, state, TASK, [(images(9)[0], None)]), state)
    close(LabelShift(pseudo_count=1e12)(net, trained(), TASK, [(images(9, SKEWED)[0], None)]), trained(), 1e-6)


def test_labels_are_never_read_and_a_class_that_nobody_has_is_not_ruled_out() -> None:
    net, state = TRAINED.build(), dict(trained())
    state["head.weight"] = 1e3 * state["head.weight"]
    x, _ = images(20, (1, 0, 0))
    after = [LabelShift(0)(net, state, TASK, [(x, y)]) for y in (object(), None)]
    equal(*after)
    assert after[0]["head.bias"].isfinite().all()


def test_networks_settings_and_data_that_cannot_be_used_are_input_errors() -> None:
    for net in (PLAIN.build(), nn.Sequential()):
        with pytest.raises(InputError, match="needs a network whose head is a linear layer with a bias, and this Seq"):
            LabelShift().check(net)
    unbiased = BATCH_NORM.build()
    unbiased.head = nn.Linear(5, 6, bias=False)
    with pytest.raises(InputError, match="has none"):
        LabelShift()(unbiased, unbiased.state_dict(), TASK, [(BATCH_NORM.images(2), None)])
    LabelShift().check(MLP.build())
    with pytest.raises(InputError, match="pseudo-count of label-shift correction"):
        LabelShift(-1)
    with pytest.raises(InputError, match="temperature of label-shift correction is positive and finite, got 0"):
        LabelShift(temperature=0)
    with pytest.raises(InputError, match="at least one image of task middle"):
        LabelShift()(MLP.build(), MLP.expert().state, TASK, [])
    with pytest.raises(InputError, match="logits of the personal model on task middle are NaN"):
        LabelShift()(MLP.build(), MLP.expert().state, TASK, [(MLP.images(2) / 0, None)])


def test_a_task_of_one_class_is_served() -> None:
    one = Task("one", slice(2, 3))
    state = MLP.expert().state
    close(LabelShift()(MLP.build(), state, one, [(MLP.images(4), labels(4, one))]), state)


def test_it_helps_where_classes_are_uneven_and_does_no_harm_where_they_are_even() -> None:
    before, after = scores(LabelShift(), SKEWED, shifted=False)
    assert after > before + 4
    before, after = scores(LabelShift(), EVEN, shifted=False)
    assert after > before - 1
