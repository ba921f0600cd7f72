"""Training of one expert on the server."""

import math
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from torch import Tensor, nn
from torchmetrics import MeanMetric

from dua_lightning import __version__
from dua_lightning.data.images import Batches, Images
from dua_lightning.data.server import ServerData
from dua_lightning.errors import InputError
from dua_lightning.params import State, clone, reset_batch_norms
from dua_lightning.regularise.base import Regulariser
from dua_lightning.store.store import digest
from dua_lightning.store.tensorfile import damaged, fingerprint, load, save
from dua_lightning.streams import derive
from dua_lightning.tasks import Batch, Expert, Task
from dua_lightning.training.ranks import ALONE, Ranks, batch_norms, started, synchronised

Callbacks = Sequence[Callback]
"""Lightning's callbacks, handed to the Trainer of every fit. A batch of theirs is a `Stretch`."""

STEPS = 25
"""Batches in one of Lightning's: what it does around each would cost about as much as a small network's step."""

Stretch = Iterator[Batch]
"""At most `STEPS` consecutive batches, read as they are taken."""


@dataclass(frozen=True)
class Training:
    """SGD and the paper's plateau rule (Section 5.1).

    After `patience` epochs in a row whose validation accuracy is not above the best so far, the learning rate is
    multiplied by `factor`; after `stop_after` more, training stops. With `reset_batch_norm` every fit starts from
    batch-norm layers as they are built (gamma 1, beta 0, statistics 0 and 1), as in the authors' release.

    A fit that can be resumed writes its checkpoint at most every `checkpoint_seconds`, 0 for every epoch; the expert
    does not depend on it.

    `accelerator`: `gpu` trains on the first GPUs that PyTorch sees, `devices` of them, or all of them with `None`. Each
    has a process, which takes its share of every batch; with `cpu` as many processes take their shares on processors.
    `precision`: `bf16-mixed` computes the passes of a fit in bfloat16; weights, their gradients, momentum and penalties
    in closed form stay in float32, and so do importances, which are measured outside of fits.
    """

    max_epochs: int = 10
    lr: float = 1e-3
    momentum: float = 0.9
    patience: int = 5
    factor: float = 0.1
    stop_after: int = 5
    reset_batch_norm: bool = False
    checkpoint_seconds: float = 30.0
    accelerator: Literal["cpu", "gpu"] = "cpu"
    devices: int | None = 1
    precision: Literal["32-true", "bf16-mixed"] = "32-true"

    def __post_init__(self) -> None:
        for name in ("max_epochs", "patience", "stop_after"):
            if getattr(self, name) < 1:
                raise InputError(f"trainer.{name} is at least 1, got {getattr(self, name)}")
        if not 0 < self.lr < math.inf:
            raise InputError(f"trainer.lr is positive and finite, got {self.lr}")
        if not 0 <= self.momentum < 1:
            raise InputError(f"trainer.momentum is in [0, 1), got {self.momentum}")
        if not 0 < self.factor < 1:
            raise InputError(f"trainer.factor is between 0 and 1, got {self.factor}")
        if not self.checkpoint_seconds >= 0:
            raise InputError(f"trainer.checkpoint_seconds is at least 0, got {self.checkpoint_seconds}")
        if self.devices is not None and self.devices < 1:
            raise InputError(f"trainer.devices is at least 1, got {self.devices}")
        if self.devices is None and self.accelerator == "cpu":
            raise InputError("trainer.devices=null is all GPUs; with trainer.accelerator=cpu give a number")


class Stretches:
    """The batches of one pass after another, `STEPS` at a time."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return -(-len(self.batches) // STEPS)

    def __iter__(self) -> Iterator[Stretch]:
        batches = iter(self.batches)
        for _ in range(len(self)):
            yield islice(batches, STEPS)


class ExpertModule(LightningModule):
    """Cross-entropy over the task's columns, plus what the regulariser adds; remembers the best validation weights.

    A training step of Lightning's is a `Stretch` of SGD steps, so its own count of steps means nothing; each is taken
    in the backward pass, see `descending`. Lightning's DDP strategy is not used, since it averages gradients after the
    one pass that it expects of a training step: each of several `ranks` has a Trainer for one device, and sums are made
    here.

    Of every batch a rank takes its rows. Their loss, the regulariser's part too, counts by their share of the batch, so
    that the ranks' gradients add up to that of the batch; a rank without rows takes part with a gradient of 0.

    Logs `train_loss` (mean over the epoch's images, penalties through autograd included), `val_accuracy` (percent);
    `curve` has both of every epoch so far, with the learning rate.
    """

    loss_sum: Tensor

    def __init__(
        self, net: nn.Module, task: Task, regulariser: Regulariser, training: Training, ranks: Ranks = ALONE
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.net = net
        self.task = task
        self.regulariser = regulariser
        self.training_settings = training
        self.ranks = ranks
        self.optimizer = torch.optim.SGD(net.parameters(), lr=training.lr, momentum=training.momentum)
        self.best_accuracy = -1.0
        self.best_state = clone(net.state_dict())
        self.epochs_without_best = 0
        self.curve: list[dict[str, float]] = []
        self.register_buffer("loss_sum", torch.zeros(()), persistent=False)
        self.images_seen = 0
        self.accuracy = MeanMetric()

    def training_step(self, stretch: Stretch, _: int) -> None:
        for x, y in stretch:
            assert y is not None
            total, rows = len(y), self.ranks.rows(len(y))
            # A stretch is read as it goes, and Lightning moves only what it sees.
            x, y = x[rows].to(self.device), y[rows].to(self.device)
            logits = self.net(x)
            loss = nn.functional.cross_entropy(logits[:, self.task.classes], y - self.task.classes.start)
            memory = self.regulariser.loss(self.net, x, logits)
            if memory is not None:
                loss = loss + memory
            (loss if len(y) == total else loss * (len(y) / total)).backward()
            self.ranks.settle()
            # The mean over no rows is not a number; its gradient is 0.
            if len(y):
                self.loss_sum.add_(loss.detach() * len(y))
            self.images_seen += total

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        x, y = batch
        correct = self.net(x)[:, self.task.classes].argmax(1) + self.task.classes.start == y
        self.accuracy.update(100.0 * correct)

    def on_validation_epoch_end(self) -> None:
        # Computed over the images of all ranks, as torchmetrics does in a group.
        accuracy = float(self.accuracy.compute())
        self.accuracy.reset()
        self.log("val_accuracy", accuracy)
        self.ranks.sum_(self.loss_sum)
        loss = self.loss_sum / self.images_seen
        if not loss.isfinite():
            raise InputError(
                f"training on task {self.task.name} diverged (loss {float(loss)}); lower trainer.lr, or the "
                "regulariser's strength"
            )
        self.log("train_loss", loss)
        rate: float = self.optimizer.param_groups[0]["lr"]
        self.curve.append({"train_loss": float(loss), "val_accuracy": accuracy, "lr": rate})
        self.loss_sum.zero_()
        self.images_seen = 0
        if accuracy > self.best_accuracy:
            self.best_accuracy = accuracy
            self.best_state = clone(self.net.state_dict())
            self.epochs_without_best = 0
        else:
            self.epochs_without_best += 1

    def on_train_epoch_end(self) -> None:
        """The plateau rule; PyTorch's scheduler would count anew after a fall, and could fall again before a stop."""
        settings = self.training_settings
        if self.epochs_without_best == settings.patience:
            for group in self.optimizer.param_groups:
                group["lr"] *= settings.factor
        self.trainer.should_stop = self.epochs_without_best == settings.patience + settings.stop_after

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer


@contextmanager
def descending(
    net: nn.Module, optimizer: torch.optim.SGD, regulariser: Regulariser, ranks: Ranks = ALONE
) -> Iterator[dict[str, Tensor]]:
    """While the block runs, every backward pass is a step of SGD as well.

    A weight is pulled by the regulariser and moved, at the learning rate and momentum of `optimizer`, as soon as its
    gradient is there. The numbers are those of `optimizer.step()` after the pass, to the last bit; but a gradient is
    used while it is in the processor's cache, and is gone before the next one takes its place in memory. PyTorch
    refuses a pass that still needs the old value of a weight that has moved. Yields the velocity of each weight, under
    its name, as momentum makes them.

    Of several ranks each begins to sum a gradient as soon as it is there, while the pass goes on, and all move the
    weight in `ranks.settle()`, which the caller calls after the pass.
    """
    (settings,) = optimizer.param_groups
    velocities: dict[str, Tensor] = {}

    def arrived(name: str, p: Tensor) -> None:
        assert p.grad is not None
        gradient, p.grad = p.grad, None
        ranks.add(gradient, partial(step, name, p, gradient))

    def step(name: str, p: Tensor, velocity: Tensor) -> None:
        regulariser.add_gradient_(name, p, velocity)
        if settings["momentum"]:
            if name in velocities:
                velocity = velocities[name].mul_(settings["momentum"]).add_(velocity)
            velocities[name] = velocity
        p.add_(velocity, alpha=-settings["lr"])

    net.zero_grad()
    weights = [(name, p) for name, p in net.named_parameters() if p.requires_grad]
    hooks = [p.register_post_accumulate_grad_hook(partial(arrived, name)) for name, p in weights]
    try:
        yield velocities
    finally:
        for hook in hooks:
            hook.remove()


class Checkpoint(Callback):
    """The state of a fit between two epochs in a file, written before the next one.

    Then gradients are gone and sums are empty. What is left is weights and buffers, the best of them, velocities, the
    learning rate, the curve and the plateau's count, torch's random state, and the number of passes over the data.
    `key` names the fit. After the last epoch nothing is written: the caller has the expert.
    """

    def __init__(
        self, path: Path, key: str, module: ExpertModule, batches: Batches, velocities: dict[str, Tensor]
    ) -> None:
        self.path = path
        self.key = key
        self.module = module
        self.batches = batches
        self.velocities = velocities
        self.started_at = len(module.curve)
        self.written = time.monotonic()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        waited = time.monotonic() - self.written
        if trainer.current_epoch > self.started_at and waited >= self.module.training_settings.checkpoint_seconds:
            self.write()
            self.written = time.monotonic()

    def write(self) -> None:
        """Raises where the file cannot be written, as `replacing` does; an earlier one is then still there."""
        module = self.module
        groups: dict[str, Mapping[str, Tensor]] = {
            "state": clone(module.net.state_dict()),
            # The best weights are often the present ones, and half of the file.
            "best": module.best_state if module.epochs_without_best else {},
            "velocity": self.velocities,
            "random": {"state": torch.random.get_rng_state()},
        }
        save(
            self.path,
            {f"{group}.{name}": tensor for group, tensors in groups.items() for name, tensor in tensors.items()},
            {
                "key": self.key,
                "curve": module.curve,
                "best_accuracy": module.best_accuracy,
                "epochs_without_best": module.epochs_without_best,
                "lr": module.optimizer.param_groups[0]["lr"],
                "passes": self.batches.passes,
            },
        )

    def restore(self) -> None:
        """Bring the fit to where the file was written. Raises `InputError` for a damaged file or another fit's."""
        tensors, values = load(self.path)
        if values.get("key") != self.key:
            raise damaged(self.path, "it is of another training (its network, data or settings differ)")
        groups: dict[str, State] = {"state": {}, "best": {}, "velocity": {}, "random": {}}
        for full, tensor in tensors.items():
            group, _, name = full.partition(".")
            groups[group][name] = tensor
        module = self.module
        module.net.load_state_dict(groups["state"])
        module.best_state = groups["best"] or clone(module.net.state_dict())
        # In the memory layout of its weight, as gradients are: other strides could round in another way.
        weights = dict(module.net.named_parameters())
        self.velocities |= {n: torch.empty_like(weights[n]).copy_(v) for n, v in groups["velocity"].items()}
        torch.random.set_rng_state(groups["random"]["state"])
        module.curve = values["curve"]
        module.best_accuracy = values["best_accuracy"]
        module.epochs_without_best = values["epochs_without_best"]
        module.optimizer.param_groups[0]["lr"] = values["lr"]
        self.batches.passes = values["passes"]
        self.started_at = len(module.curve)


def _key(net: nn.Module, data: ServerData, regulariser: Regulariser, training: Training) -> str:
    """Names a fit by all that it starts from, short of reading the images."""
    settings = {name: value for name, value in asdict(training).items() if name != "checkpoint_seconds"}
    return digest(
        {
            "versions": [__version__, torch.__version__],
            "task": repr(data.task),
            "data": [data.seed, data.batch_size, data.augment, len(data.train), len(data.validation)],
            "regulariser": repr(regulariser),
            "training": settings,
            "start": fingerprint(net.state_dict()),
        }
    )


def _devices(net: nn.Module, data: ServerData, training: Training) -> list[torch.device]:
    """One for each rank. Raises `InputError` where the fit cannot be shared among them."""
    if training.accelerator == "cpu":
        devices = [torch.device("cpu")] * (training.devices or 1)
    else:
        if not torch.cuda.is_available():
            raise InputError("trainer.accelerator=gpu cannot be used: PyTorch sees no GPU here; use trainer=default")
        there = torch.cuda.device_count()
        devices = [torch.device("cuda", index) for index in range(training.devices or there)]
        if len(devices) > there:
            raise InputError(f"trainer.devices={len(devices)} cannot be used: PyTorch sees {there} GPUs here")
    refused = f"trainer.devices={len(devices)} cannot be used"
    for name, count in (("batches", data.batch_size), ("a validation set", len(data.validation))):
        if 1 < len(devices) > count:
            raise InputError(f"{refused} with {name} of {count} images: there is at least one for each device")
    if len(devices) > 1 and training.accelerator == "cpu" and batch_norms(net):
        raise InputError(
            f"{refused} on processors for a network with batch normalisation, which PyTorch can share among GPUs only; "
            "use trainer.devices=1"
        )
    return devices


class OwnStream(Callback):
    """Dropout of a further rank draws from a stream of its own, a new one each epoch: no checkpoint need hold it."""

    def __init__(self, seed: int, task: Task, rank: int) -> None:
        self.key = (seed, "dropout", task.name, rank)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        torch.manual_seed(derive(*self.key, trainer.current_epoch))


def fit(
    net: nn.Module,
    data: ServerData,
    regulariser: Regulariser,
    training: Training,
    callbacks: Callbacks = (),
    checkpoint: Path | None = None,
) -> Expert:
    """Train `net` from its present weights on one task; it ends with the weights of the best validation accuracy.

    The earliest of equally good epochs is the best. Dropout draws from the stream `(seed, "dropout", task)`. Each call
    makes its own Trainer: a second fit on one Trainer would do nothing.

    With `checkpoint` the fit keeps its state in that file, and where the file is there already it continues from it, to
    the same bits as a fit that was never interrupted. The file stays: whoever keeps the expert removes it. It is bound
    to its fit by the weights at the start, the settings, the task and the regulariser's `repr`.

    A fit on a GPU begins and ends with `net` in the processor's memory, where the expert lies too; continued, it does
    not give the same bits.

    With several devices the caller is the first of as many ranks: it alone has the callbacks and writes the checkpoint.
    `net`, `data` and `regulariser` are copied to the others, whose processes end with the fit. The expert is that of
    one device up to rounding, except for dropout, which draws from a stream of its own in each rank. A script that
    calls this does so under `if __name__ == "__main__":`, since a new process imports it.

    Raises `InputError` for training that diverges, for a checkpoint that is damaged or of another fit, for GPUs that
    are not there, for what cannot be shared among devices, and where a rank is killed.
    """
    devices = _devices(net, data, training)
    training = replace(training, devices=len(devices))
    if len(devices) == 1:
        return _fit(net, data, regulariser, training, callbacks, checkpoint, devices, ALONE)
    kept = checkpoint if checkpoint is not None and checkpoint.exists() else None
    # Loggers and bars belong to the caller, and so does the file.
    work = partial(_fit, net, _compact(data), regulariser, training, (), kept, devices)
    with started(work, devices) as ranks:
        return _fit(net, data, regulariser, training, callbacks, checkpoint, devices, ranks)


def _compact(data: ServerData) -> ServerData:
    """The same data in a store of their own, without the pictures of other tasks and users."""

    def own(images: Images) -> Images:
        return replace(images, store=images.pixels, rows=torch.arange(len(images)))

    return ServerData(
        data.task, own(data.train), own(data.validation), data.batch_size, data.seed, augment=data.augment
    )


def _fit(
    net: nn.Module,
    data: ServerData,
    regulariser: Regulariser,
    training: Training,
    callbacks: Callbacks,
    checkpoint: Path | None,
    devices: Sequence[torch.device],
    ranks: Ranks,
) -> Expert:
    """The fit as one of its ranks runs it."""
    device = devices[ranks.rank]
    net.train()
    if training.reset_batch_norm:
        reset_batch_norms(net)
    key = _key(net, data, regulariser, training) if checkpoint is not None else ""
    if device.type != "cpu":
        net.to(device)
        regulariser = regulariser.on(device)
    module = ExpertModule(net, data.task, regulariser, training, ranks)
    batches = data.train_dataloader()
    with (
        warnings.catch_warnings(),
        torch.random.fork_rng(devices=[]),
        synchronised(net, ranks),
        descending(net, module.optimizer, regulariser, ranks) as velocities,
    ):
        torch.manual_seed(derive(data.seed, "dropout", data.task.name))
        own: list[Callback] = []
        if checkpoint is not None:
            kept = Checkpoint(checkpoint, key, module, batches, velocities)
            if checkpoint.exists():
                kept.restore()
            if ranks.rank == 0:
                own.append(kept)
        if ranks.rank > 0:
            own.append(OwnStream(data.seed, data.task, ranks.rank))
        # Lightning advises worker processes, which batches sliced from memory do not need, and warns of its own code.
        warnings.filterwarnings("ignore", module="lightning")
        trainer = Trainer(
            accelerator=device.type,
            devices=1 if device.index is None else [device.index],
            precision=training.precision,
            # In a job of SLURM's Lightning would requeue the job by itself, to a checkpoint that nobody reads.
            plugins=[LightningEnvironment()],
            max_epochs=training.max_epochs,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            callbacks=[*own, *callbacks],
        )
        done = len(module.curve)
        trainer.fit_loop.epoch_progress.current.load_state_dict({"processed": done, "completed": done})
        trainer.fit(module, Stretches(batches), data.val_dataloader(ranks.rows(len(data.validation))))
    state = {name: tensor.cpu() for name, tensor in module.best_state.items()}
    net.cpu().load_state_dict(state)
    return Expert(data.task, state)
