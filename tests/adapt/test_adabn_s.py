"""AdaBN-S: gamma, beta and the statistics of batch-norm layers change, nothing else; by SGD on batch statistics."""

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from dua_lightning.adapt import AdaBN, AdaBNS, AdaBNSReleased, Adapt
from dua_lightning.errors import DivergedError, InputError
from dua_lightning.params import State
from dua_lightning.tasks import Batch
from tests.helpers.nets import BATCH_NORM, CLASSES, MLP, TASK, batch_norms, batches, close, equal, labels, untouched

N = 12


def data() -> list[Batch]:
    return batches(3 * BATCH_NORM.images(N) + 5, labels(N), 4)


def of_batch_norm(net: nn.Module) -> set[str]:
    layers = {name for name, m in net.named_modules() if isinstance(m, _BatchNorm)}
    return {name for name in net.state_dict() if name.rpartition(".")[0] in layers}


def test_only_batch_norm_changes_and_all_of_it_does() -> None:
    net, state = BATCH_NORM.build(), BATCH_NORM.expert().state
    after = AdaBNS()(net, state, TASK, data())
    for name in state:
        changed = not torch.equal(after[name], state[name])
        assert changed == (name in of_batch_norm(net)), name


def test_the_network_the_state_and_the_data_are_left_alone() -> None:
    net, state, given = BATCH_NORM.build(), BATCH_NORM.expert().state, data()
    before = copy.deepcopy(given)
    with untouched(net, state):
        AdaBNS(2)(net, state, TASK, given)
    equal(given, before)


def test_it_is_sgd_on_batch_statistics_then_the_statistics_of_all_images() -> None:
    state, given = BATCH_NORM.expert().state, data()
    plain = BATCH_NORM.build()
    plain.load_state_dict(state)
    plain.eval()
    parameters = []
    for layer in (m for m in plain.modules() if isinstance(m, _BatchNorm)):
        layer.train()
        parameters += list(layer.parameters())
    velocity = [torch.zeros_like(p) for p in parameters]
    for _ in range(3):
        for x, y in given:
            loss = nn.functional.cross_entropy(plain(x)[:, TASK.classes], y - TASK.classes.start)
            for p, v, g in zip(parameters, velocity, torch.autograd.grad(loss, parameters), strict=True):
                v.mul_(0.9).add_(g)
                p.data -= 0.01 * v
    tuned = {name: t.detach() for name, t in plain.state_dict().items()}
    expected = AdaBN()(BATCH_NORM.build(), tuned, TASK, given)
    actual = AdaBNS(3, lr=0.01)(BATCH_NORM.build(), state, TASK, given)
    for name in expected:
        if "num_batches" not in name:
            close(actual[name], expected[name])


def test_without_an_epoch_it_is_adabn() -> None:
    state = BATCH_NORM.expert().state
    equal(AdaBNS(0)(BATCH_NORM.build(), state, TASK, data()), AdaBN()(BATCH_NORM.build(), state, TASK, data()))


def test_what_is_trained_is_counted() -> None:
    net = BATCH_NORM.build()
    gammas = sum(m.num_features for m in net.modules() if isinstance(m, _BatchNorm) and m.affine)
    assert AdaBNS().trainable(net) == 2 * gammas


def test_what_it_cannot_work_on_is_an_input_error() -> None:
    with pytest.raises(InputError, match="mobilenet_v2"):
        AdaBNS().check(MLP.build())
    with pytest.raises(InputError, match="use AdaBN"):
        AdaBNS().check(nn.Sequential(nn.BatchNorm1d(3, affine=False), nn.Linear(3, CLASSES)))
    for given in ([], [(BATCH_NORM.images(2), None)]):
        with pytest.raises(InputError):
            AdaBNS()(BATCH_NORM.build(), BATCH_NORM.expert().state, TASK, given)
    for wrong in ({"epochs": -1}, {"lr": 0.0}):
        with pytest.raises(InputError):
            AdaBNS(**wrong)


def test_labels_are_read_once_for_each_step_and_the_images_once_more() -> None:
    class Counted:
        passes = 0

        def __iter__(self) -> Iterator[Batch]:
            self.passes += 1
            return iter(data())

    counted = Counted()
    state: State = BATCH_NORM.expert().state
    AdaBNS(4)(BATCH_NORM.build(), state, TASK, counted)
    assert counted.passes == 5


EXPERT = {name: tensor.float() for name, tensor in BATCH_NORM.expert(3).state.items()}


@pytest.mark.parametrize("adapt", [AdaBNS(lr=3e38), AdaBNSReleased(lr=3e38, expert=EXPERT)], ids=["ours", "released"])
def test_training_that_diverges_is_refused(adapt: Adapt) -> None:
    given = [(x.float(), y) for x, y in data()]
    with pytest.raises(DivergedError, match=r"AdaBN-S on task middle has made NaN or infinity of body.* lr=3e\+38"):
        adapt(BATCH_NORM.build().float(), EXPERT, TASK, given)


def test_statistics_that_steps_have_made_infinite_are_the_steps_fault() -> None:
    class Steep(AdaBNS):
        def tune(self, net: nn.Module, *_: object) -> None:
            for layer in batch_norms(net):
                if layer.affine:
                    nn.init.constant_(layer.weight, 1e200)

    with pytest.raises(DivergedError, match=r"batch-norm statistics on task middle .* diverged with lr=0\.5"):
        Steep(lr=0.5)(BATCH_NORM.build(), BATCH_NORM.expert().state, TASK, data())


def test_the_statistics_are_those_of_each_batch_where_asked() -> None:
    state = BATCH_NORM.expert().state
    ours, theirs = (
        adapt(BATCH_NORM.build(), state, TASK, data())
        for adapt in (AdaBNS(0, statistics="batch"), AdaBN(statistics="batch"))
    )
    equal(ours, theirs)


def test_the_first_step_of_adam_is_as_long_as_the_learning_rate() -> None:
    net, state, (batch, *_) = BATCH_NORM.build(), BATCH_NORM.expert().state, data()
    after = AdaBNS(1, lr=0.01, optimizer="adam")(net, state, TASK, [batch])
    steps = [(after[name] - state[name]).abs() for name in of_batch_norm(net) if name.endswith(("weight", "bias"))]
    moved = torch.cat(steps)
    close(moved[moved > 1e-6], torch.full_like(moved[moved > 1e-6], 0.01), 1e-3)
    assert (moved > 1e-6).double().mean() > 0.5
