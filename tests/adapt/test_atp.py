"""ATP: one step by rates that are learnt on simulated users, against a loop in which autograd gives every gradient."""

from pathlib import Path

import pytest
import torch

from dua_lightning.adapt import ATP, AdaBN
from dua_lightning.adapt.atp import learn_rates, save_rates
from dua_lightning.errors import InputError
from tests.adapt import users
from tests.adapt.test_without_labels import certain, gain, images, unlabelled
from tests.helpers.nets import BATCH_NORM, MLP, TASK, batches, close, equal, labels, untouched
from tests.reference import atp_loop as slow


def stack() -> slow.Stack:
    net = BATCH_NORM.build()
    net.load_state_dict(certain(BATCH_NORM))
    net.requires_grad_(False)
    return [*((f"body.{name}", layer) for name, layer in net.body.named_children()), ("head", net.head)]


RATES = {name: 0.1 * (n + 1) for n, name in enumerate(slow.tensors_of(stack()))}


def test_it_is_one_step_of_all_images() -> None:
    net, state = BATCH_NORM.build(), certain(BATCH_NORM)
    with untouched(net, state):
        found = ATP(RATES)(net, state, TASK, unlabelled(BATCH_NORM))
    expected, _ = slow.step(stack(), RATES, images(BATCH_NORM), TASK.classes)
    close({name: found[name] for name in expected}, expected, 1e-8)
    equal({n: t for n, t in found.items() if n not in expected}, {n: t for n, t in state.items() if n not in expected})


def test_rates_follow_the_gradient_of_the_users_losses() -> None:
    given = [(images(BATCH_NORM) * scale, labels(14, TASK, seed)) for seed, scale in enumerate((0.5, 1.5))]
    clients = [(certain(BATCH_NORM), TASK, batches(x, y, 5)) for x, y in given]
    found = learn_rates(BATCH_NORM.build(), clients, 3, 0.02)
    expected = slow.learn(stack(), given, TASK.classes, 3, 0.02)
    assert all(abs(rate) > 1e-6 for rate in expected.values())
    assert list(found) == list(expected)
    close(found, expected, 1e-7)


def test_rates_of_0_change_nothing_and_statistics_at_1_are_adabns_of_a_single_layer() -> None:
    state, net = BATCH_NORM.expert().state, BATCH_NORM.build()
    equal(ATP(dict.fromkeys(RATES, 0.0))(net, state, TASK, unlabelled(BATCH_NORM)), state)
    one = {"body.1.running_mean": 1.0, "body.1.running_var": 1.0}
    found = ATP(one)(net, state, TASK, unlabelled(BATCH_NORM))
    adabn = AdaBN()(net, state, TASK, unlabelled(BATCH_NORM))
    close([found[name] for name in one], [adabn[name] for name in one])


def test_labels_are_never_read_and_gamma_and_beta_are_what_is_trained() -> None:
    given = BATCH_NORM.build(), BATCH_NORM.expert().state, TASK
    phi, x = ATP(RATES), images(BATCH_NORM)
    equal(*(phi(*given, batches(x, y, 5)) for y in (None, torch.full((14,), -9))))
    assert (phi.needs_labels, phi.trainable(BATCH_NORM.build())) == (False, 6)


def test_rates_learnt_behind_some_shifts_help_behind_others_and_do_no_harm_without() -> None:
    clients = []
    for seed, (scale, zero) in enumerate(((1.0, 0.0), (1.3, 1.0), (0.8, -1.0))):
        x, y = users.images(40, seed=200 + seed)
        clients.append((users.trained(), TASK, [(scale * x + zero, y)]))
    phi = ATP(learn_rates(users.TRAINED.build(), clients, 20))
    assert gain(phi, users.EVEN, shifted=True) > 3
    assert gain(phi, users.EVEN, shifted=False) > -0.5


def test_rates_are_kept_in_a_file_that_is_named_by_them(tmp_path: Path) -> None:
    path = save_rates(RATES, tmp_path)
    given = BATCH_NORM.build(), BATCH_NORM.expert().state, TASK, unlabelled(BATCH_NORM)
    equal(ATP(str(path))(*given), ATP(RATES)(*given))
    assert save_rates({**RATES, "body.1.bias": 0.0}, tmp_path) != path
    other = path.rename(tmp_path / "rates.safetensors")
    with pytest.raises(InputError, match=f"are those of {path.name}"):
        ATP(other)
    with pytest.raises(InputError, match="cannot be used"):
        ATP(path)


def test_what_it_cannot_work_with_is_an_input_error() -> None:
    with pytest.raises(InputError, match="there are none; learn them"):
        ATP().check(BATCH_NORM.build())
    with pytest.raises(InputError, match=r"a rate for body\.1\.weight, and no normalisation layer of this Network"):
        ATP(RATES).check(MLP.build())
    with pytest.raises(InputError, match=r"finite numbers, got nan for body\.1\.bias"):
        ATP({"body.1.bias": float("nan")})
    with pytest.raises(InputError, match="at least one image"):
        ATP(RATES)(BATCH_NORM.build(), BATCH_NORM.expert().state, TASK, [])
    some = (BATCH_NORM.expert().state, TASK, unlabelled(BATCH_NORM))
    with pytest.raises(InputError, match="needs labels"):
        learn_rates(BATCH_NORM.build(), [some])
    for net, clients, more in ((MLP, [some], {}), (BATCH_NORM, [], {}), (BATCH_NORM, [some], {"lr": 0.0})):
        with pytest.raises(InputError, match=r"got . users, "):
            learn_rates(net.build(), clients, **more)
