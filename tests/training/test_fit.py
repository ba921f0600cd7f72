"""One fit: the best epoch of nothing but its optimizer's steps, and continued to the same bits."""

import copy
import itertools
import math
import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from dua_lightning.data.images import images
from dua_lightning.data.server import ServerTask, union
from dua_lightning.errors import InputError
from dua_lightning.evaluation import accuracy
from dua_lightning.importance import Uniform
from dua_lightning.nets import Network
from dua_lightning.params import Params, clone
from dua_lightning.regularise import LwF, NoRegulariser, QuadraticPenalty, Regulariser
from dua_lightning.tasks import Batch, Expert, Task
from dua_lightning.training import Training, fit
from tests.helpers import tiny
from tests.helpers.nets import rows
from tests.helpers.training import Watch, training


class Random(Uniform):
    """Random importances of the body."""

    def __call__(self, net: nn.Module, expert: Expert, data: Iterable[Batch]) -> Params:
        stream = torch.Generator().manual_seed(0)
        ones = super().__call__(net, expert, data)
        return {name: torch.rand(one.shape, generator=stream) for name, one in ones.items()}


def consolidated(regulariser: Any, net: nn.Module, server: ServerTask, name: str = "before") -> Any:
    """The regulariser after a task whose weights are those of `net`."""
    module = Training().module(net, server)
    regulariser.consolidate(module, Task(name, server.task.classes), server.predict_dataloader())
    return regulariser


def penalty() -> QuadraticPenalty:
    """A penalty with random importances around other weights."""
    return consolidated(QuadraticPenalty(Random(), 0.3), tiny.network(seed=9), tiny.benchmark().server[0])


def pull_of(regulariser: Regulariser) -> Callable[[nn.Module], None]:
    """The penalty's gradient, added after a backward pass."""

    def pull(net: nn.Module) -> None:
        if isinstance(regulariser, QuadraticPenalty):
            for name, theta in net.named_parameters():
                if f"net.{name}" in regulariser.anchor:
                    away = theta.detach() - regulariser.anchor[f"net.{name}"]
                    theta.grad.addcmul_(away, regulariser.omega[f"net.{name}"], value=2 * regulariser.strength)

    return pull


def bare_loop(
    net: nn.Module,
    data: ServerTask,
    epochs: int,
    momentum: float = 0.9,
    term: Callable[[nn.Module, Tensor, Tensor], Tensor | float] = lambda net, x, logits: 0.0,
    pull: Callable[[nn.Module], None] = lambda net: None,
) -> Iterator[tuple[float, dict[str, Tensor]]]:
    """Mean loss and weights after each epoch of plain PyTorch; `term` joins the loss, `pull` the gradients."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=momentum)
    batches = data.train_dataloader()
    for epoch in range(epochs):
        losses: list[float] = []
        batches.sampler.set_epoch(epoch)
        for x, y in batches:
            logits = net(x)
            columns = logits[:, data.task.classes]
            loss = nn.functional.cross_entropy(columns, y - data.task.classes.start) + term(net, x, logits)
            optimizer.zero_grad()
            loss.backward()
            pull(net)
            optimizer.step()
            losses += [loss.item()] * len(y)
        yield math.fsum(losses) / len(losses), clone(net.state_dict())


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("make", [NoRegulariser, penalty], ids=["none", "penalty"])
@pytest.mark.parametrize("which", [0, 1])
def test_every_epoch_is_that_of_a_bare_loop_bit_for_bit(make: Any, momentum: float, which: int) -> None:
    server, regulariser, watch = tiny.benchmark(per_class=9).server[which], make(), Watch()
    assert len(server.train) % server.batch_size
    fit(tiny.network(), server, regulariser, training(momentum=momentum, watch=[watch]))
    bare = list(bare_loop(tiny.network(), server, 3, momentum, pull=pull_of(regulariser)))
    for state, logged, (loss, expected) in zip(watch.states, watch.logged, bare, strict=True):
        assert tiny.same(state, expected)
        assert logged["train_loss"] == pytest.approx(loss, rel=1e-5)


def test_the_expert_is_the_state_after_the_best_epoch_and_the_net_ends_there() -> None:
    for server in tiny.benchmark(per_class=25).server:
        net, watch = tiny.network(), Watch()
        fitted = fit(net, server, NoRegulariser(), training(max_epochs=8, lr=0.02, watch=[watch]))
        accuracies = [accuracy(net, state, server.task, server.val_dataloader()) for state in watch.states]
        assert [logged["val_accuracy"] for logged in watch.logged] == pytest.approx(accuracies)
        best = watch.states[accuracies.index(max(accuracies))]
        assert fitted.expert.task == server.task
        assert tiny.same(fitted.expert.state, best)
        assert tiny.same(net.state_dict(), best)
        assert fitted.val_accuracy == pytest.approx(max(accuracies))
        assert fitted.epochs == len(watch.states)
        assert fitted.seconds > 0


def test_the_expert_does_not_change_when_the_net_trains_on() -> None:
    a, b = tiny.benchmark(2).server
    net = tiny.network(2)
    expert = fit(net, a, NoRegulariser(), training()).expert
    kept = clone(expert.state)
    fit(net, b, NoRegulariser(), training())
    assert tiny.same(expert.state, kept)


def forgetful() -> nn.Module:
    """Draws numbers in training, and keeps statistics of its batches."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(192, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True))
        return Network(body, nn.Linear(8, 6))


def test_distillation_is_the_softened_cross_entropy_in_the_loss() -> None:
    a, b, _ = tiny.benchmark().server
    teacher, watch = tiny.network(seed=5), Watch()

    def term(net: nn.Module, x: Tensor, logits: Tensor) -> Tensor:
        with torch.no_grad():
            q = (teacher(x)[:, 0:2] / 2).softmax(1)
        return 0.5 * -(q * (logits[:, 0:2] / 2).log_softmax(1)).sum(1).mean()

    fit(tiny.network(), b, consolidated(LwF(0.5), teacher, a, "a"), training(watch=[watch]))
    bare = list(bare_loop(tiny.network(), b, 3, term=term))
    torch.testing.assert_close(watch.states[-1], bare[-1][1], rtol=1e-4, atol=1e-5)
    assert watch.logged[-1]["train_loss"] == pytest.approx(bare[-1][0], rel=1e-4)


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> list[bool]:
    """Whether training changed each column of the head."""
    return [
        not (
            torch.equal(before["head.weight"][column], after["head.weight"][column])
            and torch.equal(before["head.bias"][column], after["head.bias"][column])
        )
        for column in range(len(before["head.bias"]))
    ]


@pytest.mark.parametrize("make", [NoRegulariser, penalty], ids=["none", "penalty"])
def test_the_columns_of_other_tasks_stay_untouched(make: Any) -> None:
    net = tiny.network()
    start = clone(net.state_dict())
    expert = fit(net, tiny.benchmark().server[1], make(), training()).expert
    assert moved(start, expert.state) == [False, False, True, True, False, False]


def test_lwf_keeps_learning_the_columns_of_earlier_tasks_but_not_of_later_ones() -> None:
    a, b, _ = tiny.benchmark().server
    net = tiny.network()
    start = clone(net.state_dict())
    expert = fit(net, b, consolidated(LwF(), tiny.network(seed=5), a, "a"), training()).expert
    assert moved(start, expert.state) == [True, True, True, True, False, False]


def test_joint_training_learns_every_class_among_all() -> None:
    joint = union(tiny.benchmark(per_class=20).server)
    net = tiny.network()
    expert = fit(net, joint, NoRegulariser(), training(max_epochs=10, lr=0.02)).expert
    assert accuracy(net, expert.state, joint.task, joint.val_dataloader()) > 90
    assert all(moved(tiny.network().state_dict(), expert.state))


def test_two_fits_in_a_row_both_train_and_both_start_at_the_full_rate() -> None:
    net, states, rates = tiny.network(), [clone(tiny.network().state_dict())], []
    for server in tiny.benchmark(per_class=20).server[:2]:
        watch = Watch()
        asked = training(max_epochs=5, lr=0.02, plateau={"patience": 1}, watch=[watch])
        states.append(fit(net, server, NoRegulariser(), asked).expert.state)
        rates.append(watch.rates)
        assert accuracy(net, states[-1], server.task, server.val_dataloader()) > 90
    assert rates[0][-1] < 0.02
    assert rates[0][0] == rates[1][0] == 0.02
    for before, after in itertools.pairwise(states):
        assert not torch.equal(before["body.1.weight"], after["body.1.weight"])


def test_validation_counts_images_not_batches() -> None:
    """501 images are two evaluation batches, of 500 and of 1."""
    pixels = torch.cat([torch.zeros(500, 3, 1, 1), torch.full((1, 3, 1, 1), 255)]).byte()
    validation = images(pixels, torch.tensor([0] * 500 + [1]), torch.arange(501), 0.5, 0.5)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3, 2))
    with torch.no_grad():
        net[1].weight.zero_()
        net[1].bias.copy_(torch.tensor([5.0, 0.0]))
    task = ServerTask(Task("a", slice(0, 2)), validation[:4], validation, 4, 0)
    fitted = fit(net, task, NoRegulariser(), training(max_epochs=1, lr=1e-9))
    assert fitted.val_accuracy == pytest.approx(100 * 500 / 501, rel=1e-6)


def test_validation_is_in_evaluation_mode_and_training_in_training_mode() -> None:
    seen: list[tuple[bool, int]] = []

    class Spy(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            seen.append((self.training, len(x)))
            return super().forward(x.flatten(1))

    server = tiny.benchmark(1).server[0]
    fit(Spy(192, 2).eval(), server, NoRegulariser(), training(max_epochs=2))
    assert seen == [*[(True, 4)] * 4, (False, len(server.validation))] * 2


def test_a_fit_with_dropout_neither_reads_nor_moves_the_global_random_state() -> None:
    server, experts = tiny.benchmark().server[0], []
    for seed in (0, 1):
        net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(192, 2))
        net[2].weight.data.zero_()
        net[2].bias.data.zero_()
        torch.manual_seed(seed)
        before = torch.random.get_rng_state()
        experts.append(fit(net, server, NoRegulariser(), training()).expert)
        assert torch.equal(torch.random.get_rng_state(), before)
    assert tiny.same(experts[0].state, experts[1].state)


def test_batch_norm_layers_start_anew_only_where_asked() -> None:
    server = tiny.benchmark(1).server[0]

    def trained(worn: bool, reset: bool = False) -> dict[str, Tensor]:
        net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(192), nn.Linear(192, 2))
        net[2].weight.data.zero_()
        net[2].bias.data.zero_()
        if worn:
            for tensor in (net[1].weight.data, net[1].bias.data, net[1].running_mean, net[1].running_var):
                tensor.fill_(0.5)
        return fit(net, server, NoRegulariser(), training(2, 0.02, reset_batch_norm=reset)).expert.state

    assert tiny.same(trained(True, reset=True), trained(False))
    assert not tiny.same(trained(True), trained(False))


def test_training_reads_no_validation_image() -> None:
    server = tiny.benchmark().server[0]
    side = server.validation
    scrambled = images(255 - side.pixels, side.labels, side.sources, 0.5, 0.5)
    other = ServerTask(server.task, server.train, scrambled, server.batch_size, server.seed)
    watches = [Watch(), Watch()]
    for data, watch in zip((server, other), watches, strict=True):
        fit(tiny.network(), data, NoRegulariser(), training(watch=[watch]))
    assert all(tiny.same(a, b) for a, b in zip(watches[0].states, watches[1].states, strict=True))


def test_a_fit_leaves_nothing_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fit(tiny.network(), tiny.benchmark().server[0], NoRegulariser(), training())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "trainer", [{"fast_dev_run": True}, {"limit_val_batches": 0}], ids=["fast_dev_run", "no validation"]
)
def test_without_a_best_model_the_last_weights_are_the_experts(trainer: dict[str, Any]) -> None:
    asked = Training(trainer=partial(training().trainer, **trainer), callbacks=list)
    net = tiny.network()
    fitted = fit(net, tiny.benchmark().server[0], NoRegulariser(), asked)
    assert math.isnan(fitted.val_accuracy)
    assert not torch.equal(net.body[1].weight, tiny.network().body[1].weight)
    assert tiny.same(fitted.expert.state, net.state_dict())


def test_without_checkpoints_the_last_weights_are_the_experts(tmp_path: Path) -> None:
    watch = Watch()
    asked = training(watch=[watch], enable_checkpointing=False)
    asked = Training(asked.trainer, asked.optimizer, callbacks=asked.callbacks, keep_best=False)
    fitted = fit(tiny.network(), tiny.benchmark().server[0], NoRegulariser(), asked, tmp_path)
    assert tiny.same(fitted.expert.state, watch.states[-1])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "optimizer", [partial(torch.optim.AdamW, lr=0.01), partial(torch.optim.RMSprop, lr=0.01)], ids=["adamw", "rmsprop"]
)
def test_other_optimizers_and_schedules_are_what_they_say(optimizer: Any) -> None:
    watch, scheduler = Watch(), partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)
    asked = Training(training().trainer, optimizer, scheduler, lambda: [watch])
    fit(tiny.network(), tiny.benchmark().server[0], NoRegulariser(), asked)
    assert watch.rates == pytest.approx([0.01, 0.005, 0.0025])
    plateau = partial(torch.optim.lr_scheduler.ReduceLROnPlateau, mode="max", patience=0, threshold=200.0)
    watch.rates.clear()
    fit(
        tiny.network(),
        tiny.benchmark().server[0],
        NoRegulariser(),
        Training(asked.trainer, optimizer, plateau, lambda: [watch]),
    )
    assert watch.rates == pytest.approx([0.01, 0.01, 0.001])


class Killed(BaseException):
    """Stands for the end of the process."""


class Kill(Callback):
    """Ends the fit before epoch `epoch`, or after its first batch, or after its last one and before the next."""

    def __init__(self, epoch: int, where: str) -> None:
        self.epoch = epoch
        self.where = where

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == self.epoch and self.where == "before":
            raise Killed

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch == self.epoch and self.where == "within":
            raise Killed


PLATEAUS: dict[str, Any] = {
    "max_epochs": 7,
    "plateau": {"patience": 1, "stop_after": 3},
    "reset_batch_norm": True,
}


def drifting(seed: int = 0) -> tuple[nn.Module, ServerTask]:
    """A network whose epochs depend on every kind of state, and hard images that are cut and mirrored."""
    net = forgetful()
    with torch.no_grad():
        net.head.bias += seed
    plain = tiny.benchmark(per_class=9, noise=0.9).server[1]
    return net, ServerTask(plain.task, plain.train, plain.validation, 4, plain.seed, augment=True)


def regularisers() -> dict[str, Regulariser]:
    net, server = drifting(9)
    return {
        "none": NoRegulariser(),
        "penalty": consolidated(QuadraticPenalty(Random(), 0.3), net, server),
        "lwf": consolidated(LwF(0.5), net, server),
    }


@pytest.mark.parametrize("name", ["none", "penalty", "lwf"])
def test_a_fit_killed_in_any_epoch_ends_with_the_bits_of_one_that_was_not(name: str, tmp_path: Path) -> None:
    # With momentum the optimizer has a state.
    undisturbed = Watch()
    expert = fit(*drifting(), regularisers()[name], training(**PLATEAUS, watch=[undisturbed])).expert
    epochs = len(undisturbed.states)
    assert epochs > 3
    assert len(set(undisturbed.rates)) > 1, "the rate never falls"
    # A fit that is killed within an epoch continues from the same files as one that is killed before it.
    points = [(epoch, "before") for epoch in range(epochs)] + [(0, "within"), (3, "within")]
    for epoch, where in points:
        folder, watch = tmp_path / f"{epoch}{where}", Watch()
        with pytest.raises(Killed):
            fit(*drifting(), regularisers()[name], training(**PLATEAUS, watch=[Kill(epoch, where)]), folder)
        assert (folder / "last.ckpt").exists() == (epoch > 0)
        net, server = drifting()
        again = fit(net, server, regularisers()[name], training(**PLATEAUS, watch=[watch]), folder)
        assert tiny.same(again.expert.state, expert.state)
        assert tiny.same(net.state_dict(), expert.state)
        assert again.epochs == epochs
        assert (watch.rates, watch.logged) == (undisturbed.rates[epoch:], undisturbed.logged[epoch:])
        assert all(tiny.same(a, b) for a, b in zip(watch.states, undisturbed.states[epoch:], strict=True))


@pytest.mark.parametrize("epochs", [2, 7], ids=["the last epoch", "an early stop"])
def test_a_fit_that_was_killed_after_its_end_trains_no_further(epochs: int, tmp_path: Path) -> None:
    settings = PLATEAUS | {"max_epochs": epochs}
    expert, watch = fit(*drifting(), NoRegulariser(), training(**settings), tmp_path).expert, Watch()
    again = fit(*drifting(), NoRegulariser(), training(**settings, watch=[watch]), tmp_path)
    assert watch.states == []
    assert tiny.same(again.expert.state, expert.state)


def test_a_fit_killed_again_and_again_still_ends_with_the_same_bits(tmp_path: Path) -> None:
    expert = fit(*drifting(), NoRegulariser(), training(**PLATEAUS)).expert
    for epoch in (1, 1, 2, 3):
        with pytest.raises(Killed):
            fit(*drifting(), NoRegulariser(), training(**PLATEAUS, watch=[Kill(epoch, "within")]), tmp_path)
    assert tiny.same(fit(*drifting(), NoRegulariser(), training(**PLATEAUS), tmp_path).expert.state, expert.state)


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


def test_tied_and_frozen_weights_continue(tmp_path: Path) -> None:
    _, server = drifting()
    expert = fit(Tied(), server, NoRegulariser(), training(**PLATEAUS)).expert
    with pytest.raises(Killed):
        fit(Tied(), server, NoRegulariser(), training(**PLATEAUS, watch=[Kill(2, "within")]), tmp_path)
    assert tiny.same(fit(Tied(), server, NoRegulariser(), training(**PLATEAUS), tmp_path).expert.state, expert.state)


def interrupted(folder: Path) -> Path:
    with pytest.raises(Killed):
        fit(*drifting(), NoRegulariser(), training(**PLATEAUS, watch=[Kill(2, "before")]), folder)
    return folder / "last.ckpt"


def renamed(data: ServerTask) -> ServerTask:
    task = Task("other", data.task.classes)
    return ServerTask(task, data.train, data.validation, data.batch_size, data.seed, data.augment)


FOREIGN = {
    "other start": drifting(1),
    "other network": (tiny.network(), drifting()[1]),
    "other task": (drifting()[0], renamed(drifting()[1])),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_checkpoint_of_another_fit_is_refused(case: str, tmp_path: Path) -> None:
    path = interrupted(tmp_path)
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"of another training.*delete it") as raised:
        fit(*copy.deepcopy(FOREIGN[case]), NoRegulariser(), training(**PLATEAUS), tmp_path)
    assert str(path) in str(raised.value)
    assert path.read_bytes() == before


def test_a_checkpoint_that_was_moved_is_refused(tmp_path: Path) -> None:
    interrupted(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    with pytest.raises(InputError, match=r"written to another folder .*delete it"):
        fit(*drifting(), NoRegulariser(), training(**PLATEAUS), tmp_path / "b")


@pytest.mark.parametrize("name", ["last.ckpt", "best.ckpt"])
def test_a_damaged_checkpoint_is_refused(name: str, tmp_path: Path) -> None:
    path = interrupted(tmp_path).with_name(name)
    last = path.with_name("last.ckpt").read_bytes()
    whole = path.read_bytes()
    with ZipFile(path) as parts:
        largest = max(parts.infolist(), key=lambda part: part.file_size)
    within = largest.header_offset + len(largest.filename) + largest.file_size // 2
    for damaged in (
        whole[:-1],
        b"",
        b"something else",
        whole[:within] + bytes([whole[within] ^ 1]) + whole[within + 1 :],
    ):
        path.with_name("last.ckpt").write_bytes(last)
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"cannot be used.*delete it") as raised:
            fit(*drifting(), NoRegulariser(), training(**PLATEAUS), tmp_path)
        assert "\n" not in str(raised.value)
        assert path.read_bytes() == damaged


def test_training_that_diverges_is_an_input_error() -> None:
    with pytest.raises(InputError, match="diverged"):
        fit(tiny.network(), tiny.benchmark().server[0], NoRegulariser(), training(max_epochs=30, lr=1e30))


def leap(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Makes infinite weights in one step."""
    return torch.optim.SGD(parameters, lr=3e38, weight_decay=1e3)


@pytest.mark.parametrize("validation", [1.0, 0])
def test_an_expert_that_its_last_step_has_made_infinite_is_an_input_error(validation: float) -> None:
    data = tiny.benchmark().server[0]
    data.batch_size = len(data.train)
    last = replace(training(max_epochs=1, limit_val_batches=validation), optimizer=leap, callbacks=list)
    with pytest.raises(InputError, match=r"task a diverged \(body.* holds NaN or infinity\)"):
        fit(tiny.network(), data, NoRegulariser(), last)


def test_a_validation_picture_with_nan_is_not_counted_as_some_class() -> None:
    data = tiny.benchmark().server[0]
    shift = data.validation.shift.clone()
    shift[-1, 0] = torch.nan
    data.validation = replace(data.validation, shift=shift)
    with pytest.raises(InputError, match=r"the accuracy on task a is not defined: .* look at the images"):
        fit(tiny.network(), data, NoRegulariser(), training(max_epochs=1))


def test_a_batch_that_cannot_be_normalised_is_an_input_error() -> None:
    data = tiny.benchmark().server[0]
    data.batch_size = 1
    with pytest.raises(InputError, match="a batch of size 1 of task a cannot be normalised in training"):
        fit(rows(tiny.SHAPE, 6, 0), data, NoRegulariser(), training(max_epochs=1))


@pytest.mark.parametrize(
    "trainer", [{"accelerator": "no such"}, {"precision": "7-bit"}, {"max_epoch": 3}, {"accelerator": "gpu"}], ids=str
)
def test_what_lightning_refuses_is_one_line(trainer: dict[str, Any]) -> None:
    if trainer == {"accelerator": "gpu"} and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(InputError, match="Lightning cannot train so") as raised:
        fit(tiny.network(), tiny.benchmark().server[0], NoRegulariser(), training(**trainer))
    assert "\n" not in str(raised.value)


def test_with_bf16_passes_are_in_bfloat16_and_weights_in_float32() -> None:
    seen: set[tuple[torch.dtype, torch.dtype]] = set()

    class Spy(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            out = super().forward(x.flatten(1))
            seen.add((out.dtype, self.weight.dtype))
            return out

    server = tiny.benchmark(1).server[0]
    expert = fit(Spy(192, 2), server, NoRegulariser(), training(max_epochs=2, precision="bf16-mixed")).expert
    assert seen == {(torch.bfloat16, torch.float32)}
    assert {tensor.dtype for tensor in expert.state.values()} == {torch.float32}


def test_a_plain_trainer_takes_the_data_module_as_it_is() -> None:
    server, net = tiny.benchmark(per_class=20).server[0], tiny.network()
    expert = fit(net, server, NoRegulariser(), training(max_epochs=5, lr=0.02)).expert
    module = Training().module(net, server)
    trainer = training(logger=False).trainer()
    expected = accuracy(net, expert.state, server.task, server.val_dataloader())
    assert trainer.validate(module, datamodule=server, verbose=False)[0]["val_accuracy"] == pytest.approx(expected)
    assert trainer.test(module, datamodule=server, verbose=False)[0]["test_accuracy"] == pytest.approx(expected)
    logits = torch.cat(trainer.predict(module, datamodule=server))
    assert logits.shape == (len(server.train), 2)
    assert torch.equal(logits, net.eval()(server.train.inputs())[:, server.task.classes])


@pytest.mark.slow
def test_two_processes_give_the_expert_of_one(tmp_path: Path) -> None:
    """Over gloo, and continued from a checkpoint."""
    server = tiny.benchmark(per_class=9).server[1]
    one = fit(tiny.network(), server, penalty(), training())
    shared = {"strategy": "ddp_spawn", "devices": 2}
    two = fit(tiny.network(), server, penalty(), training(**shared), tmp_path)
    torch.testing.assert_close(two.expert.state, one.expert.state, rtol=1e-3, atol=1e-4)
    assert two.val_accuracy == pytest.approx(one.val_accuracy)
    assert two.epochs == 3


def test_within_a_job_of_slurm_lightning_does_not_take_over(monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning.fabric.plugins.environments import LightningEnvironment

    found = []

    class Spy(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            found.append((trainer.is_global_zero, signal.getsignal(signal.SIGUSR1)))

    before = signal.getsignal(signal.SIGUSR1)
    for name, value in {"NTASKS": "4", "NTASKS_PER_NODE": "4", "JOB_NAME": "dua", "PROCID": "1", "JOB_ID": "7"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    asked = training(watch=[Spy()], plugins=[LightningEnvironment()])
    fit(tiny.network(), tiny.benchmark().server[0], NoRegulariser(), asked)
    assert found == [(True, before)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_fit_on_a_gpu_ends_near_that_on_the_processor_and_in_its_memory(precision: str, tmp_path: Path) -> None:
    a, b = tiny.benchmark().server[:2]
    lwf = consolidated(LwF(0.5), tiny.network(seed=3), a, "a")
    for name, regulariser in {"none": NoRegulariser(), "lwf": lwf, "l2": penalty()}.items():
        on_cpu = fit(tiny.network(), b, regulariser, training()).expert.state
        net, asked = tiny.network(), training(accelerator="gpu", precision=precision)
        on_gpu = fit(net, b, regulariser, asked, tmp_path / name).expert.state
        assert {tensor.device.type for tensor in [*on_gpu.values(), *net.state_dict().values()]} == {"cpu"}
        for weight, tensor in on_gpu.items():
            torch.testing.assert_close(tensor, on_cpu[weight], rtol=0.1, atol=0.02)
