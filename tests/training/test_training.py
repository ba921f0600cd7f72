"""Training of one expert: the paper's learning-rate rule, the best epoch, and nothing but SGD."""

import itertools
import math
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from lightning import Callback
from torch import Tensor, nn

from dua_lightning.data.images import Batches, images
from dua_lightning.data.server import ServerData, union
from dua_lightning.errors import InputError
from dua_lightning.evaluation import accuracy
from dua_lightning.importance import Uniform
from dua_lightning.nets import Network
from dua_lightning.params import Params, clone
from dua_lightning.regularise import Anchor, Distil, Free, Regulariser
from dua_lightning.tasks import Batch, Expert, Task
from dua_lightning.training import training as module
from dua_lightning.training.training import STEPS, Stretches, Training, descending, fit
from tests.helpers import tiny
from tests.helpers.nets import CASES, MLP, Case, add_gradients_, equal, labels, law
from tests.reference.plateau_loop import plateau

SOON = Training(max_epochs=3, lr=0.05)


class Scripted(nn.Module):
    """Classifies the first `script[e]` validation images rightly after epoch e, and keeps e + 1 in its state."""

    def __init__(self, script: list[int]) -> None:
        super().__init__()
        self.script = script
        self.weight = nn.Parameter(torch.zeros(()))
        self.register_buffer("epochs", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.epochs += 1
        right = x[:, 0, 0, 0] + 256 * x[:, 1, 0, 0] < self.script[int(self.epochs) - 1]
        return torch.stack([self.weight + right, self.weight + ~right], 1)


def zeros(n: int = 4) -> ServerData:
    """One training batch an epoch and `n` validation images, all of class 0; an image is its number."""
    number = torch.arange(n)
    pixels = torch.stack([number % 256, number // 256, 0 * number], 1)[:, :, None, None].byte()
    validation = images(pixels, 0 * number, number, 0, 1 / 255)
    return ServerData(Task("a", slice(0, 2)), validation[:4], validation, 4, 0)


class Watch(Callback):
    """What each epoch looked like from outside."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.states: list[dict[str, Tensor]] = []
        self.logged: list[dict[str, float]] = []

    def on_train_epoch_start(self, trainer, module) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_epoch_end(self, trainer, module) -> None:
        self.states.append(clone(module.net.state_dict()))
        self.logged.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def follow(script: list[int], training: Training, n: int = 4) -> tuple[Watch, Scripted, Expert]:
    net, watch = Scripted(script), Watch()
    return watch, net, fit(net, zeros(n), Free(), training, [watch])


NEVER_BETTER = [1] * 12
BETTER_JUST_IN_TIME = [0, *[0] * 4, 1, *[1] * 9, 2, *[2] * 11]
TWO_PLATEAUS = [0, *[0] * 5, 1, *[0] * 5, 2, *[2] * 11]
FALLING = [4, 3, 2, 1, 0, 3, 3, 3, 3, 3, 3, 3]
ALWAYS_BETTER = [0, 1, 2, 3, 4]


@law
@given(
    script=st.lists(st.integers(0, 4), min_size=1, max_size=30),
    patience=st.integers(1, 6),
    factor=st.sampled_from([0.1, 0.5]),
    stop_after=st.integers(1, 8),
)
@example(script=NEVER_BETTER, patience=5, factor=0.1, stop_after=5)
@example(script=BETTER_JUST_IN_TIME, patience=5, factor=0.1, stop_after=5)
@example(script=TWO_PLATEAUS, patience=5, factor=0.1, stop_after=5)
@example(script=FALLING, patience=5, factor=0.1, stop_after=5)
@example(script=ALWAYS_BETTER, patience=5, factor=0.1, stop_after=5)
@example(script=[0] * 14, patience=5, factor=0.1, stop_after=6)
def test_rates_stop_and_best_epoch_are_those_of_the_papers_rule(
    script: list[int], patience: int, factor: float, stop_after: int
):
    training = Training(max_epochs=len(script), lr=0.1, patience=patience, factor=factor, stop_after=stop_after)
    watch, net, expert = follow(script, training)
    rates, best = plateau(script, 0.1, patience, factor, stop_after)
    assert watch.rates == pytest.approx(rates, rel=1e-12)
    assert int(expert.state["epochs"]) == best + 1
    assert int(net.epochs) == best + 1


@pytest.mark.parametrize(
    ("script", "rates"),
    [
        (NEVER_BETTER, [0.1] * 6 + [0.01] * 5),
        (BETTER_JUST_IN_TIME, [0.1] * 11 + [0.01] * 5 + [0.01] * 5 + [0.001] * 5),
        (TWO_PLATEAUS, [0.1] * 6 + [0.01] * 6 + [0.001] * 6 + [0.0001] * 5),
        (ALWAYS_BETTER, [0.1] * 5),
    ],
)
def test_the_rule_counted_by_hand(script: list[int], rates: list[float]):
    """Also of the oracle: five bad epochs, a tenth of the rate; five more, the end; after an improvement all anew."""
    assert plateau(script, 0.1)[0] == pytest.approx(rates)
    assert follow(script, Training(max_epochs=len(script), lr=0.1))[0].rates == pytest.approx(rates)


def test_one_image_more_among_many_is_an_improvement():
    watch, _, expert = follow([20000, *[20001] * 5], Training(max_epochs=6, lr=0.1, patience=2), n=20002)
    assert watch.rates == pytest.approx([0.1] * 4 + [0.01] * 2)
    assert int(expert.state["epochs"]) == 2


def test_the_earliest_of_equally_good_epochs_is_the_best():
    _, net, expert = follow([0, 3, 1, 3, 3, 2], Training(max_epochs=6))
    assert int(expert.state["epochs"]) == int(net.epochs) == 2


def test_an_accuracy_of_zero_still_gives_a_trained_expert():
    assert int(follow([0, 0, 0], Training(max_epochs=3))[2].state["epochs"]) == 1


@pytest.mark.parametrize("epochs", [1, 2, 7])
def test_training_ends_after_max_epochs(epochs: int):
    assert len(follow([0, 1, 2, 3, 4, 4, 4, 4], Training(max_epochs=epochs))[0].rates) == epochs


def test_the_expert_is_the_state_after_the_best_epoch_and_the_net_ends_there():
    for server in tiny.benchmark(per_class=25).server:
        net, watch = tiny.network(), Watch()
        expert = fit(net, server, Free(), Training(max_epochs=8, lr=0.02), [watch])
        accuracies = [accuracy(net, state, server.task, server.val_dataloader()) for state in watch.states]
        assert [logged["val_accuracy"] for logged in watch.logged] == pytest.approx(accuracies)
        best = watch.states[accuracies.index(max(accuracies))]
        assert expert.task == server.task
        assert tiny.same(expert.state, best)
        assert tiny.same(net.state_dict(), best)


def test_the_expert_does_not_change_when_the_net_trains_on():
    a, b = tiny.benchmark(2).server
    net = tiny.network(2)
    expert = fit(net, a, Free(), SOON)
    kept = clone(expert.state)
    fit(net, b, Free(), SOON)
    assert tiny.same(expert.state, kept)


def cross_entropy(logits: Tensor, y: Tensor, task: Task) -> Tensor:
    return nn.functional.cross_entropy(logits[:, task.classes], y - task.classes.start)


def bare_loop(
    net: Network,
    data: ServerData,
    training: Training,
    term: Callable[[Network, Tensor, Tensor], Tensor | float] = lambda net, x, logits: 0.0,
    pull: Callable[[Network], None] = lambda net: None,
) -> Iterator[tuple[float, dict[str, Tensor]]]:
    """Mean loss and weights after each epoch of plain PyTorch; `term` joins the loss, `pull` the gradients."""
    optimizer = torch.optim.SGD(net.parameters(), lr=training.lr, momentum=training.momentum)
    batches = data.train_dataloader()
    for _ in range(training.max_epochs):
        losses = []
        for x, y in batches:
            logits = net(x)
            loss = cross_entropy(logits, y, data.task) + term(net, x, logits)
            optimizer.zero_grad()
            loss.backward()
            pull(net)
            optimizer.step()
            losses += [loss.item()] * len(y)
        yield math.fsum(losses) / len(losses), clone(net.state_dict())


class Random(Uniform):
    """Random importances of the body."""

    def __call__(self, net: nn.Module, expert: Expert, data: Iterable[Batch]) -> Params:
        stream = torch.Generator().manual_seed(0)
        return {
            name: torch.rand(one.shape, generator=stream) for name, one in super().__call__(net, expert, data).items()
        }


def anchor() -> Anchor:
    """A penalty with random importances around other weights."""
    other = tiny.network(seed=9)
    return Anchor(Random(), 0.3).consolidate(other, Expert(Task("before", slice(0, 2)), other.state_dict()), [])


def pull_of(penalty: Anchor) -> Callable[[Network], None]:
    def pull(net: Network) -> None:
        for name, theta in net.named_parameters():
            if name in penalty.anchor:
                away = theta.detach() - penalty.anchor[name]
                theta.grad.addcmul_(away, penalty.omega[name], value=2 * penalty.strength)

    return pull


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("regulariser", [Free(), anchor()], ids=["free", "anchor"])
@pytest.mark.parametrize("which", [0, 1])
def test_every_epoch_is_that_of_a_bare_loop_bit_for_bit(regulariser: Regulariser, momentum: float, which: int):
    server = tiny.benchmark(per_class=9).server[which]
    assert len(server.train) % server.batch_size
    training = Training(max_epochs=3, lr=0.05, momentum=momentum)
    pull = pull_of(regulariser) if isinstance(regulariser, Anchor) else lambda net: None
    watch = Watch()
    fit(tiny.network(), server, regulariser, training, [watch])
    bare = list(bare_loop(tiny.network(), server, training, pull=pull))
    assert len(watch.states) == 3
    for state, logged, (loss, expected) in zip(watch.states, watch.logged, bare, strict=True):
        assert tiny.same(state, expected)
        assert logged["train_loss"] == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("count", [1, STEPS, STEPS + 1, 3 * STEPS])
def test_stretches_are_the_batches_of_every_pass_in_their_order(count: int):
    def batches() -> Batches:
        return Batches(zeros(2 * count).validation, 2, (0, "order"))

    stretches, expected = Stretches(batches()), batches()
    for _ in range(2):
        found = [list(stretch) for stretch in stretches]
        assert [len(stretch) for stretch in found] == [STEPS] * (count // STEPS) + [count % STEPS] * (count % STEPS > 0)
        assert len(stretches) == len(found)
        assert all(torch.equal(x, z) for (x, _), (z, _) in zip(itertools.chain(*found), expected, strict=True))


def forgetful() -> nn.Module:
    """Draws numbers in training, and keeps statistics of its batches."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(192, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True))
        return Network(body, nn.Linear(8, 6))


@pytest.mark.parametrize("steps", [2, 3, 25])
def test_however_long_the_stretches_are_every_epoch_has_the_same_bits(steps: int, monkeypatch: pytest.MonkeyPatch):
    plain = tiny.benchmark(per_class=9).server[0]
    server = ServerData(plain.task, plain.train, plain.validation, 4, plain.seed, augment=True)
    assert len(server.train_dataloader()) == 4
    training = Training(max_epochs=6, lr=0.05, patience=1, stop_after=2)
    watches = [Watch(), Watch()]
    for length, watch in zip((1, steps), watches, strict=True):
        monkeypatch.setattr(module, "STEPS", length)
        fit(forgetful(), server, Free(), training, [watch])
    assert watches[0].rates == watches[1].rates
    assert watches[0].logged == watches[1].logged
    assert all(tiny.same(a, b) for a, b in zip(watches[0].states, watches[1].states, strict=True))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("case", CASES)
def test_steps_in_the_backward_pass_have_the_bits_of_steps_after_it(case: Case, momentum: float):
    """Also where a weight is used twice, or tied to another."""
    penalty = Anchor(Random(), 0.3).consolidate(case.build(2), case.expert(), [])
    inside, after = case.build(), case.build()
    optimizers = [torch.optim.SGD(net.parameters(), lr=0.01, momentum=momentum) for net in (inside, after)]

    def backward(net: nn.Module, seed: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            nn.functional.cross_entropy(net(case.images(4, seed)), labels(4, seed=seed)).backward()

    for p in inside.parameters():
        p.grad = torch.ones_like(p)
    with descending(inside, optimizers[0], penalty):
        for seed in range(3):
            backward(inside, seed)
    for seed in range(3):
        optimizers[1].zero_grad()
        backward(after, seed)
        add_gradients_(penalty, after)
        optimizers[1].step()
    equal(inside.state_dict(), after.state_dict())
    assert all(p.grad is None for p in inside.parameters())


def test_weights_that_are_frozen_or_unused_stay_where_they_are():
    net = MLP.build()
    net.body[1].requires_grad_(False)
    before = clone(net.state_dict())
    penalty = Anchor(Uniform(), 1.0).consolidate(net, MLP.expert(), [])
    with descending(net, torch.optim.SGD(net.parameters(), lr=0.1), penalty):
        net.body(MLP.images(4)).sum().backward()
    moved = {name for name, tensor in net.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {"body.3.weight", "body.3.bias"}


class Fails(Callback):
    def on_train_epoch_end(self, trainer, module) -> None:
        raise ValueError("from a callback")


@pytest.mark.parametrize("callbacks", [[], [Fails()]], ids=["finished", "failed"])
def test_after_a_fit_a_backward_pass_moves_nothing(callbacks: list[Callback]):
    net = tiny.network()
    with suppress(ValueError):
        fit(net, tiny.benchmark().server[0], Free(), SOON, callbacks)
    before = clone(net.state_dict())
    net(torch.zeros(1, *tiny.SHAPE)).sum().backward()
    assert tiny.same(net.state_dict(), before)
    assert all(p.grad is not None for p in net.parameters())


def test_a_network_that_needs_the_old_value_of_a_moved_weight_is_refused():
    class Detour(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(nn.functional.linear(x, self.weight.detach(), self.bias))

    net = nn.Sequential(nn.Linear(4, 4), Detour(4, 4))
    with (
        descending(net, torch.optim.SGD(net.parameters(), lr=0.1), Free()),
        pytest.raises(RuntimeError, match="modified by an inplace operation"),
    ):
        net(torch.ones(1, 4)).sum().backward()


def test_the_anchor_in_the_gradients_is_the_penalty_in_the_loss():
    server, penalty, watch = tiny.benchmark().server[1], anchor(), Watch()

    def term(net: Network, x: Tensor, logits: Tensor) -> Tensor:
        theta = dict(net.named_parameters())
        return penalty.strength * sum(
            (penalty.omega[name] * (theta[name] - penalty.anchor[name]) ** 2).sum() for name in penalty.anchor
        )

    fit(tiny.network(), server, penalty, SOON, [watch])
    bare = list(bare_loop(tiny.network(), server, SOON, term=term))
    free = list(bare_loop(tiny.network(), server, SOON))
    torch.testing.assert_close(watch.states[-1], bare[-1][1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(free[-1][1]["body.1.weight"], bare[-1][1]["body.1.weight"], rtol=1e-2, atol=1e-3)


def learnt(name: str, net: Network, server: ServerData) -> Distil:
    expert = Expert(Task(name, server.task.classes), clone(net.state_dict()))
    return Distil(strength=0.5).consolidate(net, expert, server.predict_dataloader())


def test_distillation_is_the_softened_cross_entropy_in_the_loss():
    a, b, _ = tiny.benchmark().server
    teacher, watch = tiny.network(seed=5), Watch()

    def term(net: Network, x: Tensor, logits: Tensor) -> Tensor:
        with torch.no_grad():
            q = (teacher(x)[:, 0:2] / 2).softmax(1)
        return 0.5 * -(q * (logits[:, 0:2] / 2).log_softmax(1)).sum(1).mean()

    fit(tiny.network(), b, learnt("a", teacher, a), SOON, [watch])
    bare = list(bare_loop(tiny.network(), b, SOON, term=term))
    torch.testing.assert_close(watch.states[-1], bare[-1][1], rtol=1e-4, atol=1e-5)
    assert watch.logged[-1]["train_loss"] == pytest.approx(bare[-1][0], rel=1e-4)


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> list[bool]:
    """Of each column of the head, whether training changed it."""
    return [
        not (
            torch.equal(before["head.weight"][column], after["head.weight"][column])
            and torch.equal(before["head.bias"][column], after["head.bias"][column])
        )
        for column in range(len(before["head.bias"]))
    ]


@pytest.mark.parametrize("regulariser", [Free(), anchor()], ids=["free", "anchor"])
def test_the_columns_of_other_tasks_stay_untouched(regulariser: Regulariser):
    net = tiny.network()
    start = clone(net.state_dict())
    expert = fit(net, tiny.benchmark().server[1], regulariser, SOON)
    assert moved(start, expert.state) == [False, False, True, True, False, False]


def test_lwf_keeps_learning_the_columns_of_earlier_tasks_but_not_of_later_ones():
    a, b, _ = tiny.benchmark().server
    net = tiny.network()
    start = clone(net.state_dict())
    expert = fit(net, b, learnt("a", tiny.network(seed=5), a), SOON)
    assert moved(start, expert.state) == [True, True, True, True, False, False]


def test_joint_training_learns_every_class_among_all():
    joint = union(tiny.benchmark(per_class=20).server)
    net = tiny.network()
    expert = fit(net, joint, Free(), Training(max_epochs=10, lr=0.02))
    assert accuracy(net, expert.state, joint.task, joint.val_dataloader()) > 90
    assert all(moved(tiny.network().state_dict(), expert.state))


def test_two_fits_in_a_row_both_train_and_both_start_at_the_full_rate():
    net, states, rates = tiny.network(), [clone(tiny.network().state_dict())], []
    for server in tiny.benchmark(per_class=20).server[:2]:
        watch = Watch()
        states.append(fit(net, server, Free(), Training(max_epochs=5, lr=0.02, patience=1), [watch]).state)
        rates.append(watch.rates)
        assert accuracy(net, states[-1], server.task, server.val_dataloader()) > 90
    assert rates[0][-1] < 0.02
    assert rates[0][0] == rates[1][0] == 0.02
    for before, after in itertools.pairwise(states):
        assert not torch.equal(before["body.1.weight"], after["body.1.weight"])


def test_validation_counts_images_not_batches():
    """501 images are two evaluation batches, of 500 and of 1."""
    pixels = torch.cat([torch.zeros(500, 3, 1, 1), torch.full((1, 3, 1, 1), 255)]).byte()
    validation = images(pixels, torch.tensor([0] * 500 + [1]), torch.arange(501), 0.5, 0.5)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3, 2))
    with torch.no_grad():
        net[1].weight.zero_()
        net[1].bias.copy_(torch.tensor([5.0, 0.0]))
    watch = Watch()
    fit(net, ServerData(Task("a", slice(0, 2)), validation[:4], validation, 4, 0), Free(), Training(1, 1e-9), [watch])
    assert watch.logged[0]["val_accuracy"] == pytest.approx(100 * 500 / 501, rel=1e-6)


def test_validation_is_in_evaluation_mode_and_training_in_training_mode():
    seen: list[tuple[bool, int]] = []

    class Spy(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            seen.append((self.training, len(x)))
            return super().forward(x.flatten(1))

    server = tiny.benchmark(1).server[0]
    fit(Spy(192, 2), server, Free(), Training(max_epochs=2))
    assert seen == [*[(True, 4)] * 4, (False, len(server.validation))] * 2


def test_a_fit_with_dropout_neither_reads_nor_moves_the_global_random_state():
    server, experts = tiny.benchmark().server[0], []
    for seed in (0, 1):
        net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(192, 2))
        net[2].weight.data.zero_()
        net[2].bias.data.zero_()
        torch.manual_seed(seed)
        before = torch.random.get_rng_state()
        experts.append(fit(net, server, Free(), SOON))
        assert torch.equal(torch.random.get_rng_state(), before)
    assert tiny.same(experts[0].state, experts[1].state)


def test_batch_norm_layers_start_anew_only_where_asked():
    server = tiny.benchmark(1).server[0]

    def trained(worn: bool, **settings: bool) -> dict[str, Tensor]:
        net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(192), nn.Linear(192, 2))
        net[2].weight.data.zero_()
        net[2].bias.data.zero_()
        if worn:
            for tensor in (net[1].weight.data, net[1].bias.data, net[1].running_mean, net[1].running_var):
                tensor.fill_(0.5)
        return fit(net, server, Free(), Training(max_epochs=2, lr=0.02, **settings)).state

    assert tiny.same(trained(True, reset_batch_norm=True), trained(False))
    assert not tiny.same(trained(True), trained(False))


def test_training_reads_no_validation_image():
    server = tiny.benchmark().server[0]
    side = server.validation
    scrambled = images(255 - side.pixels, side.labels, side.sources, 0.5, 0.5)
    other = ServerData(server.task, server.train, scrambled, server.batch_size, server.seed)
    watches = [Watch(), Watch()]
    for data, watch in zip((server, other), watches, strict=True):
        fit(tiny.network(), data, Free(), SOON, [watch])
    assert all(tiny.same(a, b) for a, b in zip(watches[0].states, watches[1].states, strict=True))


def test_a_fit_leaves_nothing_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    fit(tiny.network(), tiny.benchmark().server[0], Free(), SOON)
    assert list(tmp_path.iterdir()) == []


class Killed(BaseException):
    """Stands for the end of the process."""


class Kill(Callback):
    """Ends the fit before epoch `epoch`, or after the first stretch of it."""

    def __init__(self, epoch: int, within: bool) -> None:
        self.epoch = epoch
        self.within = within

    def on_train_epoch_start(self, trainer, module) -> None:
        if trainer.current_epoch == self.epoch and not self.within:
            raise Killed

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        if trainer.current_epoch == self.epoch and self.within:
            raise Killed


PLATEAUS = Training(
    max_epochs=7, lr=0.05, momentum=0.9, patience=1, stop_after=3, reset_batch_norm=True, checkpoint_seconds=0
)


def drifting(seed: int = 0) -> tuple[nn.Module, ServerData]:
    """A network whose epochs depend on every kind of state, and hard images that are cut and mirrored."""
    net = forgetful()
    with torch.no_grad():
        net.head.bias += seed
    plain = tiny.benchmark(per_class=9, noise=0.9).server[1]
    return net, ServerData(plain.task, plain.train, plain.validation, 4, plain.seed, augment=True)


def regularisers() -> dict[str, Regulariser]:
    net, server = drifting(9)
    expert = Expert(Task("before", slice(0, 2)), clone(net.state_dict()))
    data = server.predict_dataloader()
    return {
        "free": Free(),
        "anchor": Anchor(Random(), 0.3).consolidate(net, expert, data),
        "distil": Distil(0.5).consolidate(net, expert, data),
    }


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("name", ["free", "anchor", "distil"])
def test_a_fit_killed_in_any_epoch_ends_with_the_bits_of_one_that_was_not(name: str, momentum: float, tmp_path: Path):
    training = replace(PLATEAUS, momentum=momentum)
    regulariser, undisturbed = regularisers()[name], Watch()
    net, server = drifting()
    expert = fit(net, server, regulariser, training, [undisturbed])
    epochs = len(undisturbed.states)
    assert epochs > 3
    assert len(set(undisturbed.rates)) > 1, "the rate never falls"
    for epoch, within in itertools.product(range(epochs), (False, True)):
        path, watch = tmp_path / f"{epoch}{within}.safetensors", Watch()
        net, server = drifting()
        with pytest.raises(Killed):
            fit(net, server, regulariser, training, [Kill(epoch, within)], path)
        assert path.exists() == (epoch > 0)
        net, server = drifting()
        again = fit(net, server, regulariser, training, [watch], path)
        assert tiny.same(again.state, expert.state)
        assert tiny.same(net.state_dict(), expert.state)
        assert (watch.rates, watch.logged) == (undisturbed.rates[epoch:], undisturbed.logged[epoch:])
        assert all(tiny.same(a, b) for a, b in zip(watch.states, undisturbed.states[epoch:], strict=True))


def test_a_fit_killed_again_and_again_still_ends_with_the_same_bits(tmp_path: Path):
    expert = fit(*drifting(), Free(), PLATEAUS)
    path = tmp_path / "a.safetensors"
    for epoch in (1, 1, 2, 3):
        with pytest.raises(Killed):
            fit(*drifting(), Free(), PLATEAUS, [Kill(epoch, within=True)], path)
    assert tiny.same(fit(*drifting(), Free(), PLATEAUS, checkpoint=path).state, expert.state)


class Tied(nn.Module):
    """One weight under two names, one in another memory layout than usual, and one that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        stream = torch.Generator().manual_seed(0)
        self.first = nn.Parameter(torch.randn(192, 192, generator=stream) / 14)
        self.second = self.first
        self.turned = nn.Parameter(torch.randn(192, 192, generator=stream).T / 14)
        self.frozen = nn.Parameter(torch.randn(192, generator=stream), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return ((x.flatten(1) @ self.first).relu() @ self.second @ self.turned + self.frozen)[:, :6]


def test_tied_and_frozen_weights_continue(tmp_path: Path):
    _, server = drifting()
    expert = fit(Tied(), server, Free(), PLATEAUS)
    path = tmp_path / "a.safetensors"
    with pytest.raises(Killed):
        fit(Tied(), server, Free(), PLATEAUS, [Kill(2, within=True)], path)
    assert tiny.same(fit(Tied(), server, Free(), PLATEAUS, checkpoint=path).state, expert.state)


def interrupted(path: Path) -> None:
    with pytest.raises(Killed):
        fit(*drifting(), Free(), PLATEAUS, [Kill(2, within=False)], path)


def renamed(data: ServerData) -> ServerData:
    return ServerData(
        Task("other", data.task.classes), data.train, data.validation, data.batch_size, data.seed, data.augment
    )


FOREIGN = {
    "other start": (drifting(1), Free(), PLATEAUS),
    "other network": ((tiny.network(), drifting()[1]), Free(), PLATEAUS),
    "other task": ((drifting()[0], renamed(drifting()[1])), Free(), PLATEAUS),
    "other regulariser": (drifting(), Anchor(Uniform(), 1.0), PLATEAUS),
    "other settings": (drifting(), Free(), replace(PLATEAUS, lr=0.01)),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_checkpoint_of_another_fit_is_refused(case: str, tmp_path: Path):
    path = tmp_path / "a.safetensors"
    interrupted(path)
    (net, server), regulariser, training = FOREIGN[case]
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"of another training.*delete it") as raised:
        fit(net, server, regulariser, training, checkpoint=path)
    assert str(path) in str(raised.value)
    assert path.read_bytes() == before


def test_a_damaged_checkpoint_is_refused_and_how_often_it_is_written_does_not_matter(tmp_path: Path):
    path = tmp_path / "a.safetensors"
    interrupted(path)
    expert = fit(*drifting(), Free(), replace(PLATEAUS, checkpoint_seconds=60), checkpoint=path)
    assert tiny.same(expert.state, fit(*drifting(), Free(), PLATEAUS).state)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"cannot be used.*delete it"):
        fit(*drifting(), Free(), PLATEAUS, checkpoint=path)


def test_a_checkpoint_is_written_no_more_often_than_asked(tmp_path: Path):
    fit(*drifting(), Free(), replace(PLATEAUS, checkpoint_seconds=60), checkpoint=tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("max_epochs", 0),
        ("max_epochs", -1),
        ("patience", 0),
        ("stop_after", 0),
        ("lr", 0.0),
        ("lr", -1e-3),
        ("lr", float("nan")),
        ("momentum", -0.1),
        ("momentum", 1.0),
        ("momentum", float("nan")),
        ("factor", 0.0),
        ("factor", 1.0),
        ("factor", float("nan")),
        ("checkpoint_seconds", -1.0),
        ("checkpoint_seconds", float("nan")),
    ],
)
def test_a_setting_that_cannot_be_is_an_input_error_that_names_it(setting: str, value: float):
    with pytest.raises(InputError, match=rf"trainer\.{setting} .*got {value}") as raised:
        Training(**{setting: value})
    assert "\n" not in str(raised.value)


def test_the_defaults_are_those_of_the_papers_numbers_experiment():
    assert Training() == Training(max_epochs=10, lr=1e-3, momentum=0.9, patience=5, factor=0.1, stop_after=5)


def test_a_network_in_evaluation_mode_is_trained_in_train_mode():
    net = tiny.network().eval()
    fit(net, tiny.benchmark().server[0], Free(), Training(max_epochs=1))
    assert net.training


def test_training_that_diverges_is_an_input_error_and_nothing_is_kept():
    with pytest.raises(InputError, match="diverged"):
        fit(tiny.network(), tiny.benchmark().server[0], Free(), Training(max_epochs=30, lr=1e30))


def test_a_gpu_that_is_not_there_is_an_input_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"trainer\.accelerator=gpu .* no GPU here; use trainer=default") as raised:
        fit(tiny.network(), tiny.benchmark().server[0], Free(), Training(accelerator="gpu"))
    assert "\n" not in str(raised.value)


def test_with_bf16_passes_are_in_bfloat16_and_weights_in_float32():
    seen: set[tuple[torch.dtype, torch.dtype]] = set()

    class Spy(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            out = super().forward(x.flatten(1))
            seen.add((out.dtype, self.weight.dtype))
            return out

    server = tiny.benchmark(1).server[0]
    expert = fit(Spy(192, 2), server, Free(), Training(max_epochs=2, precision="bf16-mixed"))
    assert seen == {(torch.bfloat16, torch.float32)}
    assert {tensor.dtype for tensor in expert.state.values()} == {torch.float32}


def test_within_a_job_of_slurm_lightning_does_not_take_over(monkeypatch: pytest.MonkeyPatch):
    found = []

    class Spy(Callback):
        def on_train_start(self, trainer, pl_module):
            found.append((trainer.is_global_zero, signal.getsignal(signal.SIGUSR1)))

    before = signal.getsignal(signal.SIGUSR1)
    for name, value in {"NTASKS": "4", "NTASKS_PER_NODE": "4", "JOB_NAME": "dua", "PROCID": "1", "JOB_ID": "7"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    fit(tiny.network(), tiny.benchmark().server[0], Free(), SOON, [Spy()])
    assert found == [(True, before)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_fit_on_a_gpu_ends_near_that_on_the_processor_and_in_its_memory(precision: str, tmp_path: Path):
    a, b = tiny.benchmark().server[:2]
    for name, regulariser in {"free": Free(), "lwf": learnt("a", tiny.network(seed=3), a), "l2": anchor()}.items():
        on_cpu = fit(tiny.network(), b, regulariser, SOON).state
        net, training = tiny.network(), replace(SOON, accelerator="gpu", precision=precision, checkpoint_seconds=0)
        on_gpu = fit(net, b, regulariser, training, checkpoint=tmp_path / name).state
        assert {tensor.device.type for tensor in [*on_gpu.values(), *net.state_dict().values()]} == {"cpu"}
        for weight, tensor in on_gpu.items():
            torch.testing.assert_close(tensor, on_cpu[weight], rtol=0.1, atol=0.02)
