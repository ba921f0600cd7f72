"""One training in several processes: the weights of one process, and nobody left behind."""

import multiprocessing
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning import Callback
from torch import Tensor, nn

from dua_lightning.data.server import ServerData, union
from dua_lightning.errors import InputError
from dua_lightning.importance import FIM
from dua_lightning.nets import mlp
from dua_lightning.params import clone
from dua_lightning.regularise import Anchor, Distil, Free, Regulariser
from dua_lightning.report.records import read
from dua_lightning.store.tensorfile import load, save
from dua_lightning.tasks import Expert
from dua_lightning.training import ranks
from dua_lightning.training.ranks import HEEDED, Ranks, synchronised
from dua_lightning.training.training import Training, _compact, fit
from tests.helpers import tiny
from tests.helpers.cli import TINY, spawn
from tests.helpers.nets import BATCH_NORM
from tests.run.test_stopping import FOREVER, start, stored, wait_for
from tests.training.test_training import PLATEAUS, Kill, Killed, Watch, forgetful

TWO = Training(max_epochs=3, lr=0.05, devices=2)


@pytest.fixture(autouse=True)
def _nobody_is_left_behind():
    yield
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_every_row_has_its_rank_and_shares_are_as_equal_as_can_be(count: int):
    for n in range(20):
        shares = [list(range(n))[Ranks(rank, count).rows(n)] for rank in range(count)]
        assert [row for share in shares for row in share] == list(range(n))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def case(name: str) -> tuple[Regulariser, ServerData]:
    """In each, batches have four images, of which three ranks have unequal shares, and the last has two."""
    if name == "joint":
        data = union(tiny.benchmark(per_class=11, noise=0.7).server)
        return Free(), ServerData(data.task, data.train, data.validation[:11], data.batch_size, data.seed)
    net, first = tiny.network(seed=9), tiny.benchmark().server[0]
    expert = Expert(first.task, clone(net.state_dict()))
    regulariser = {"ewc": Anchor(FIM(), 400), "lwf": Distil()}[name]
    return (
        regulariser.consolidate(net, expert, first.predict_dataloader()),
        tiny.benchmark(per_class=9, noise=0.9).server[1],
    )


@pytest.mark.parametrize("name", ["joint", "ewc", "lwf"])
def test_three_processes_have_the_weights_of_one_up_to_rounding(name: str):
    regulariser, data = case(name)
    assert (data.batch_size, len(data.train) % data.batch_size) == (4, 2)
    assert len(data.validation) % 3
    one, three = Watch(), Watch()
    alone = fit(tiny.network(), data, regulariser, replace(TWO, devices=1), [one])
    net = tiny.network()
    together = fit(net, data, regulariser, replace(TWO, devices=3), [three])
    assert tiny.same(net.state_dict(), together.state)
    torch.testing.assert_close(together.state, alone.state, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(three.states, one.states, rtol=1e-5, atol=1e-6)
    for ours, expected in zip(three.logged, one.logged, strict=True):
        assert ours["val_accuracy"] == expected["val_accuracy"]
        assert ours["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-5)


class Diary(nn.Module):
    """Draws numbers in training; before each validation writes down what it drew, and its weights."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.net = mlp(tiny.SHAPE, 6, 0, width=8)
        self.folder = folder
        self.drawn: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            mask = torch.rand(len(x), 1, 1, 1)
            self.drawn.append(mask.flatten())
            return self.net(x * (mask < 0.5))
        epoch = len([*self.folder.glob(f"*-{os.getpid()}")])
        drawn = torch.cat(self.drawn)
        save(self.folder / f"{epoch}-{os.getpid()}", {**self.net.state_dict(), "drawn": drawn}, {})
        self.drawn = []
        return self.net(x)


def test_ranks_have_the_same_weights_and_other_dropout_and_a_killed_fit_continues_to_the_same_bits(tmp_path: Path):
    data = tiny.benchmark(per_class=9, noise=0.9).server[1]
    data = ServerData(data.task, data.train, data.validation, 4, data.seed, augment=True)
    training, undisturbed, path = replace(PLATEAUS, devices=2), Watch(), tmp_path / "a.safetensors"
    diary = tmp_path / "diary"
    expert = fit(Diary(diary), data, Free(), training, [undisturbed])
    epochs = len(undisturbed.states)
    seen: set[float] = set()
    for epoch in range(epochs):
        ours, theirs = (load(entry)[0] for entry in diary.glob(f"{epoch}-*"))
        for drawn in (ours.pop("drawn"), theirs.pop("drawn")):
            assert not seen & set(drawn.tolist())
            seen |= set(drawn.tolist())
        assert tiny.same(ours, theirs)
    assert epochs > 3
    assert len(set(undisturbed.rates)) > 1, "the rate never falls"
    with pytest.raises(Killed):
        fit(Diary(tmp_path / "killed"), data, Free(), training, [Kill(2, within=True)], path)
    watch = Watch()
    again = fit(Diary(tmp_path / "again"), data, Free(), training, [watch], path)
    assert (watch.rates, watch.logged) == (undisturbed.rates[2:], undisturbed.logged[2:])
    assert tiny.same(again.state, expert.state)


class Murder(Callback):
    """Kills the other rank in the second epoch."""

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        if trainer.current_epoch == 1:
            (other,) = multiprocessing.active_children()
            os.kill(other.pid, signal.SIGKILL)


def test_a_rank_that_is_killed_ends_the_fit_in_one_line_and_the_checkpoint_stays(tmp_path: Path):
    path = tmp_path / "a.safetensors"
    data = tiny.benchmark().server[0]
    with pytest.raises(InputError, match=r"process 2 of 2 of the training was killed \(SIGKILL\).*run again") as raised:
        fit(tiny.network(), data, Free(), replace(TWO, checkpoint_seconds=0), [Murder()], path)
    assert "\n" not in str(raised.value)
    assert len(load(path)[1]["curve"]) == 1
    # And another one can begin.
    assert fit(tiny.network(), data, Free(), replace(TWO, max_epochs=1)).task == data.task


def test_the_others_get_the_pictures_of_the_task_alone():
    data = tiny.benchmark().server[1]
    copied = _compact(data)
    for ours, theirs in ((copied.train, data.train), (copied.validation, data.validation)):
        assert tiny.equal(ours, theirs)
        assert len(ours.store) == len(ours) < len(theirs.store)
    ours, theirs = ([x for x, _ in of.train_dataloader()] for of in (copied, data))
    assert all(torch.equal(x, z) for x, z in zip(ours, theirs, strict=True))


class Faulty(nn.Module):
    """Raises `error` in the other processes in training."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.net = tiny.network()
        self.error = error

    def forward(self, x: Tensor) -> Tensor:
        if self.training and multiprocessing.parent_process() is not None:
            raise self.error
        return self.net(x)


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (InputError("picture 7 is damaged"), InputError, "^picture 7 is damaged$"),
        (ValueError("a fault"), RuntimeError, "(?s)in process 2 of 2 .*Traceback.*ValueError: a fault"),
    ],
)
def test_what_another_rank_raises_is_raised(error: Exception, kind: type[Exception], said: str):
    with pytest.raises(kind, match=said):
        fit(Faulty(error), tiny.benchmark().server[0], Free(), TWO)


class Fails(Callback):
    def on_train_epoch_end(self, trainer, module) -> None:
        raise ValueError("from a callback")


def test_what_the_caller_raises_is_raised(capfd: pytest.CaptureFixture[str]):
    data = tiny.benchmark().server[0]
    with pytest.raises(ValueError, match="from a callback"):
        fit(tiny.network(), data, Free(), TWO, [Fails()])
    with pytest.raises(InputError, match="diverged"):
        fit(tiny.network(), data, Free(), replace(TWO, max_epochs=30, lr=1e30))
    assert "Traceback" not in capfd.readouterr().err


def local() -> nn.Module:
    class Local(nn.Linear):
        pass

    return nn.Sequential(nn.Flatten(), Local(192, 6))


@pytest.mark.parametrize(
    ("net", "settings", "said"),
    [
        (forgetful(), {}, "batch normalisation"),
        (tiny.network(), {"devices": 5}, "batches of 4 images"),
        (local(), {}, "copied to another process"),
        (tiny.network(), {"accelerator": "gpu", "devices": 4}, "PyTorch sees 2 GPUs"),
    ],
)
def test_what_several_devices_cannot_do_is_refused_before_anything_is_started(
    net: nn.Module, settings: dict[str, object], said: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(multiprocessing, "get_context", None)
    training = replace(TWO, **settings)
    with pytest.raises(InputError, match=rf"trainer\.devices={training.devices} cannot be used.*{said}") as raised:
        fit(net, tiny.benchmark().server[0], Free(), training)
    assert "\n" not in str(raised.value)


def test_fewer_validation_images_than_devices_are_refused():
    data = tiny.benchmark().server[0]
    few = ServerData(data.task, data.train, data.validation[:1], data.batch_size, data.seed)
    with pytest.raises(InputError, match=r"trainer\.devices=2 .*a validation set of 1 images"):
        fit(tiny.network(), few, Free(), TWO)


@pytest.fixture
def group_of_one(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("group_of_one")
def test_a_group_of_torch_distributed_is_left_alone():
    with pytest.raises(InputError, match=r"trainer\.devices=2 .*group of torch\.distributed"):
        fit(tiny.network(), tiny.benchmark().server[0], Free(), TWO)
    assert torch.distributed.is_initialized()


@pytest.mark.usefixtures("group_of_one")
@pytest.mark.parametrize(("size", "messages"), [(1, [6, 20, 6]), (100, [26, 6]), (10**6, [32])])
def test_small_gradients_travel_together_and_come_back_to_their_places(
    size: int, messages: list[int], monkeypatch: pytest.MonkeyPatch
):
    """Also one that lies in another memory layout; sums over a group of one are what they were."""
    sent: list[int] = []

    def doubled(flat: Tensor, async_op: bool) -> object:
        sent.append(flat.numel())
        return all_reduce(flat.mul_(2), async_op=async_op)

    all_reduce = torch.distributed.all_reduce
    monkeypatch.setattr(torch.distributed, "all_reduce", doubled)
    monkeypatch.setattr(ranks, "BUCKET_BYTES", size)
    gradients = [torch.randn(6), torch.randn(5, 4).T, torch.randn(2, 3)]
    expected = [2 * gradient for gradient in gradients]
    strides, order, pair = [gradient.stride() for gradient in gradients], [], Ranks(0, 2)
    for place, gradient in enumerate(gradients):
        pair.add(gradient, partial(order.append, place))
    assert order == []
    pair.settle()
    assert (order, sent) == ([0, 1, 2], messages)
    assert all(torch.equal(a, b) for a, b in zip(gradients, expected, strict=True))
    assert [gradient.stride() for gradient in gradients] == strides


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"devices": 0}, r"trainer\.devices is at least 1, got 0"),
        ({"devices": -1}, r"trainer\.devices is at least 1, got -1"),
        ({"devices": None}, r"trainer\.devices=null is all GPUs; .* give a number"),
    ],
)
def test_a_number_of_devices_that_cannot_be_is_an_input_error(settings: dict[str, object], said: str):
    with pytest.raises(InputError, match=said):
        Training(**settings)


def test_batch_norms_are_synchronised_for_several_ranks_only_and_are_the_networks_own_afterwards():
    net = BATCH_NORM.build()
    layers, state = list(net.modules()), clone(net.state_dict())
    with synchronised(net, Ranks(0, 1)):
        assert list(net.modules()) == layers
    with suppress(Killed), synchronised(net, Ranks(0, 2)):
        assert sum(isinstance(layer, nn.SyncBatchNorm) for layer in net.modules()) == 2
        assert list(net.state_dict()) == list(state)
        for tensor in net.state_dict().values():
            tensor.add_(1)
        raise Killed
    assert list(net.modules()) == layers
    assert all(torch.equal(tensor, state[name] + 1) for name, tensor in net.state_dict().items())


DDP = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true", "threads=1")


def test_a_run_with_two_processes_has_the_table_of_one_within_a_job_of_slurm_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name, value in {"NTASKS": "4", "NTASKS_PER_NODE": "4", "JOB_NAME": "dua", "PROCID": "1", "JOB_ID": "7"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    frames = []
    for name, settings in {"one": (), "two": DDP}.items():
        done = spawn(*TINY, "method=lwf", *settings, f"paths.output_dir={tmp_path / name}", cwd=tmp_path)
        assert (done.status, done.err) == (0, "")
        frames.append(read(tmp_path / name / "records.csv"))
    assert frames[0].equals(frames[1])
    # Each has its own experts.
    kept = [load(path)[1] for path in Path(os.environ["DUA_STORE_DIR"], "experts").glob("[!.]*")]
    assert sorted(values["made_of"]["trainer"]["devices"] for values in kept) == [1, 1, 2, 2]


def processes(group: int) -> list[str]:
    """Of a group, those that have not ended."""
    listed = subprocess.run(
        ["ps", "-wweo", "pgid=,stat=,pid=,args="], capture_output=True, text=True, check=True
    ).stdout
    found = [line.split(maxsplit=2) for line in listed.splitlines()]
    return [what for number, state, what in found if int(number) == group and not state.startswith("Z")]


@pytest.mark.parametrize(
    ("send", "number"),
    [
        (os.killpg, signal.SIGINT),
        pytest.param(os.kill, signal.SIGTERM, marks=pytest.mark.slow),
        (os.kill, signal.SIGKILL),
    ],
)
def test_a_run_that_is_stopped_leaves_no_process_and_its_checkpoint(
    send: Callable[[int, int], None], number: signal.Signals, tmp_path: Path
):
    """Ctrl-C reaches the whole group."""
    out, store = tmp_path / "out", Path(os.environ["DUA_STORE_DIR"])
    run = ("-m", "dua_lightning", *TINY, *FOREVER, *DDP, "trainer.checkpoint_seconds=0", f"paths.output_dir={out}")
    process = start(*run, cwd=tmp_path, start_new_session=True)
    wait_for(stored(store, "experts/.*.partial.safetensors"), process)
    assert len(processes(process.pid)) >= 2
    send(process.pid, number)
    _, err = process.communicate(timeout=60)
    if number == signal.SIGKILL:
        assert process.returncode == -number
    else:
        assert process.returncode == 128 + number
        (line,) = err.strip().splitlines()
        assert line.startswith("stopped; to continue: python -m dua_lightning ")
    deadline = time.monotonic() + 20
    while left := processes(process.pid):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
    (checkpoint,) = store.glob("experts/.*.partial.safetensors")
    load(checkpoint)


def other_rank(process: subprocess.Popen[str]) -> int:
    found = [what.split(maxsplit=1) for what in processes(process.pid)]
    (pid,) = [int(pid) for pid, command in found if "spawn_main" in command]
    return pid


@pytest.mark.slow
def test_a_run_whose_rank_is_killed_ends_in_one_line(tmp_path: Path):
    out, store = tmp_path / "out", Path(os.environ["DUA_STORE_DIR"])
    run = (*TINY, *FOREVER, *DDP, "trainer.checkpoint_seconds=0", f"paths.output_dir={out}")
    process = start("-m", "dua_lightning", *run, cwd=tmp_path, start_new_session=True)
    wait_for(stored(store, "experts/.*.partial.safetensors"), process)
    # All but the last are the caller's to heed.
    for number in (*HEEDED, signal.SIGKILL):
        os.kill(other_rank(process), number)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, len(err.splitlines())) == (2, 1), err
    assert err.startswith("error: process 2 of 2 of the training was killed (SIGKILL)")
    (checkpoint,) = store.glob("experts/.*.partial.safetensors")
    load(checkpoint)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are no two GPUs")
@pytest.mark.parametrize("name", ["joint", "ewc", "lwf"])
def test_a_fit_on_two_gpus_ends_near_that_on_the_processor_and_in_its_memory(name: str):
    regulariser, data = case(name)
    on_cpu = fit(tiny.network(), data, regulariser, replace(TWO, devices=1)).state
    net = tiny.network()
    on_gpus = fit(net, data, regulariser, replace(TWO, accelerator="gpu")).state
    assert {tensor.device.type for tensor in [*on_gpus.values(), *net.state_dict().values()]} == {"cpu"}
    torch.testing.assert_close(on_gpus, on_cpu, rtol=0.1, atol=0.02)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are no two GPUs")
def test_batch_norms_of_two_gpus_see_whole_batches():
    def net() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(192), nn.Linear(192, 6))

    _, data = case("ewc")
    start, states = net().state_dict(), {}
    for devices in (1, 2):
        trained = net()
        trained.load_state_dict(start)
        states[devices] = fit(trained, data, Free(), replace(TWO, accelerator="gpu", devices=devices)).state
    assert states[1].keys() == states[2].keys() == start.keys()
    torch.testing.assert_close(states[2], states[1], rtol=1e-3, atol=1e-4)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are no two GPUs")
def test_a_rank_that_is_killed_ends_a_fit_on_gpus_too():
    with pytest.raises(InputError, match=r"process 2 of 2 of the training was killed \(SIGKILL\)"):
        fit(tiny.network(), tiny.benchmark().server[0], Free(), replace(TWO, accelerator="gpu"), [Murder()])
