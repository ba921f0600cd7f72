"""One fit: an expert from a network and a task."""

import math
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import ZipFile

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins import TorchCheckpointIO
from torch import nn
from torch.multiprocessing.spawn import ProcessExitedException

from dua_lightning.data.server import ServerTask
from dua_lightning.errors import InputError
from dua_lightning.params import State, not_finite, reset_batch_norms
from dua_lightning.regularise.base import Regulariser
from dua_lightning.store.files import replacing
from dua_lightning.store.tensorfile import damaged, fingerprint
from dua_lightning.tasks import Expert, Task
from dua_lightning.training.module import ExpertModule, MakeOptimizer, MakeScheduler
from dua_lightning.training.plateau import Plateau

CPU = torch.device("cpu")
"""The processor."""


def paper_trainer(**arguments: Any) -> Trainer:
    """Make Lightning's Trainer on the processor for 10 epochs (Section 5.1, Numbers), without bars and summaries.

    Args:
        **arguments: Further arguments of the Trainer, which replace those.

    Returns:
        The Trainer.
    """
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    return Trainer(**{"accelerator": "cpu", "devices": 1, "max_epochs": 10, **quiet, **arguments})


def paper_optimizer(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Make the paper's SGD (Section 5.1); the momentum is the authors' release's.

    Args:
        parameters: The parameters that are trained.

    Returns:
        The optimizer.
    """
    return torch.optim.SGD(parameters, lr=1e-3, momentum=0.9)


def paper_callbacks() -> list[Callback]:
    """Make the plateau rule of Section 5.1.

    Returns:
        The rule alone.
    """
    return [Plateau()]


@dataclass(frozen=True)
class Training:
    """The settings by which experts are trained.

    Args:
        trainer: Makes Lightning's Trainer; it is given `logger` and `callbacks`.
        optimizer: Makes the optimizer of parameters; by default the paper's SGD (Section 5.1).
        scheduler: Makes the scheduler of an optimizer, or `None`.
        callbacks: Makes the callbacks of one fit; by default the paper's plateau rule.
        logger: Makes Lightning's logger of the training of a task, or says `False` for none.
        reset_batch_norm: Whether every fit starts from batch-norm layers as they are built (gamma 1, beta 0, mean 0,
            variance 1), as in the authors' release.
        keep_best: Whether the best model is taken, and the fit can be continued; otherwise the last weights are taken,
            and no checkpoint is written. A Trainer with `enable_checkpointing=False` needs `False`.
        device: The device on which regularisers measure what they remember.
    """

    trainer: Callable[..., Trainer] = paper_trainer
    optimizer: MakeOptimizer = paper_optimizer
    scheduler: MakeScheduler | None = None
    callbacks: Callable[[], Sequence[Callback]] = paper_callbacks
    logger: Callable[[Task], Logger | bool] = lambda task: False
    reset_batch_norm: bool = False
    keep_best: bool = True
    device: torch.device = CPU

    def module(self, net: nn.Module, data: ServerTask) -> ExpertModule:
        """Make the module that trains a network on a task.

        Args:
            net: The network.
            data: The task's data.

        Returns:
            The module.
        """
        return ExpertModule(net, data.task, self.optimizer, self.scheduler, data.seed)


@dataclass(frozen=True)
class Fitted:
    """The result of a fit.

    Args:
        expert: The expert.
        epochs: Epochs of its training, those before an interruption too.
        seconds: Wall time of the fit, without the time before an interruption.
        val_accuracy: Best validation accuracy in percent; NaN where it was not measured.
    """

    expert: Expert
    epochs: int
    seconds: float
    val_accuracy: float


def fit(
    net: nn.Module,
    data: ServerTask,
    regulariser: Regulariser,
    training: Training,
    folder: Path | None = None,
) -> Fitted:
    """Train `net` from its present weights on one task; it ends with the weights of the best validation accuracy.

    The earliest of equally good epochs is the best; without validation it is the last. The best model and the state
    after the last epoch are Lightning's checkpoints `best.ckpt` and `last.ckpt` in `folder`. Where `last.ckpt` is there
    already, the fit continues from it, to the same bits as a fit that was never interrupted. The folder stays: whoever
    keeps the expert removes it. Each call makes its own Trainer, since a second fit on one Trainer would do nothing.

    Args:
        net: The network; it begins and ends in the processor's memory.
        data: The task.
        regulariser: The callback that helps to remember earlier tasks.
        training: Trainer, optimizer and rules.
        folder: Where checkpoints are kept; by default they are gone at the end.

    Returns:
        The expert, and what its training took.

    Raises:
        InputError: For training that diverges, for a checkpoint that is damaged or lies in another folder than it was
            written to, and for settings that Lightning refuses.
    """
    began = time.monotonic()
    if training.reset_batch_norm:
        reset_batch_norms(net)
    module = training.module(net, data)
    module.start = fingerprint(net.state_dict(), repr([data.task, data.seed, data.batch_size, data.augment]))
    with ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(TemporaryDirectory()))
        best = _BestAndLast(folder)
        last = best.last
        if last.exists():
            # The best model may be in its file alone, which is looked at before it is written over.
            for path in (last, folder / "best.ckpt"):
                _read(path, module, best)
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(warnings.catch_warnings())
        # Lightning advises worker processes, which images in memory do not need, and warns of its own code.
        warnings.filterwarnings("ignore", module="lightning")
        with _refused(TypeError, ValueError):
            trainer = training.trainer(
                logger=training.logger(data.task),
                callbacks=[regulariser, *training.callbacks(), *([best] if training.keep_best else [])],
            )
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = _WholeFiles()
        net.train()
        with _refused(ProcessExitedException):
            trainer.fit(module, datamodule=data, ckpt_path=last if last.exists() else None, weights_only=True)
        net.cpu()
        epochs, accuracy = trainer.current_epoch, math.nan
        if best.best_model_path:
            # After a fit in other processes the Trainer here knows nothing but the files.
            epochs = int(_read(last, module, best)["epoch"]) + 1
            chosen = _read(Path(best.best_model_path), module, best)
            accuracy = float(chosen["callbacks"][best.state_key]["best_model_score"])
            module.load_state_dict(chosen["state_dict"])
    state: State = {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}
    if holding := not_finite(state):
        raise InputError(
            f"training on task {data.task.name} diverged ({holding[0]} of its best epoch holds NaN or infinity); lower "
            "the learning rate, or the regulariser's strength"
        )
    return Fitted(Expert(data.task, state), epochs, time.monotonic() - began, accuracy)


@contextmanager
def _refused(*kinds: type[Exception]) -> Iterator[None]:
    """Turn Lightning's errors about settings that it cannot use into an `InputError`."""
    refused: tuple[type[Exception], ...] = (MisconfigurationException, *kinds)
    try:
        yield
    except refused as error:
        raise InputError(f"Lightning cannot train so: {' '.join(str(error).split())}") from error


class _BestAndLast(ModelCheckpoint):
    """Lightning's checkpoint `best.ckpt`, and `last.ckpt` after every epoch.

    Lightning's `save_last` skips epochs that were not the best. Two callbacks would do, but a step of the digits' MLP
    took a tenth longer with them, measured by `benchmarks/training.py`: after the best epochs both files are the same,
    and the Trainer asks each callback at each of a batch's hooks.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(
            folder,
            filename="best",
            monitor="val_accuracy",
            mode="max",
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )
        self.last = folder / "last.ckpt"

    @cached_property
    def state_key(self) -> str:
        return super().state_key

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        before = self.best_model_score
        super().on_train_epoch_end(trainer, pl_module)
        if self.best_model_score is before:
            trainer.save_checkpoint(self.last)
        elif trainer.is_global_zero:
            with replacing(self.last, durable=False) as temporary:
                shutil.copyfile(self.best_model_path, temporary)


class _WholeFiles(TorchCheckpointIO):
    """Writes checkpoints whole or not at all, also where a process is killed.

    Lightning's own go through the system's temporary folder, from where they are copied if it is on another disk.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        content = BytesIO()
        torch.save(checkpoint, content)
        with replacing(Path(path), durable=False) as temporary:
            temporary.write_bytes(content.getbuffer())


def _read(path: Path, module: ExpertModule, best: ModelCheckpoint) -> Mapping[str, Any]:
    """Read a checkpoint of this fit, mapped into the processor's memory.

    PyTorch does not compare the parts of its files with their checksums. A checkpoint that has moved would let
    Lightning forget which epoch was the best.

    Raises:
        InputError: For a checkpoint that is damaged, of another fit, or was written to another folder.
    """
    try:
        with ZipFile(path) as parts:
            broken = parts.testzip()
        kept: Mapping[str, Any] = {}
        if broken is None:
            kept = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
        start, folder = kept.get("start"), kept.get("callbacks", {}).get(best.state_key, {}).get("dirpath")
    # torch.load raises half a dozen kinds for what is no checkpoint.
    except Exception as error:
        raise damaged(path, " ".join(str(error).split())) from error
    if broken is not None:
        raise damaged(path, f"its part {broken} is not what was written")
    if start != module.start:
        raise damaged(path, "it is of another training (its network, data or task differ)")
    if folder != best.dirpath:
        raise damaged(path, f"it was written to another folder ({folder})")
    return kept
