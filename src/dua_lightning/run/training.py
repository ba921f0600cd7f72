"""The training of experts, and the device of everything, from the settings."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from dua_lightning.errors import InputError
from dua_lightning.run.build import check
from dua_lightning.run.settings import TrainingSettings

# Lightning takes seconds to load, and the device is known without it.
if TYPE_CHECKING:
    from dua_lightning.training import Training

HARMLESS = (
    *("default_root_dir", "enable_model_summary", "enable_progress_bar", "log_every_n_steps", "profiler"),
    *("limit_test_batches", "limit_predict_batches"),
)
"""Arguments of the Trainer that change no bit of an expert."""

WHOLE_PROGRAM = ("ddp", "ddp_find_unused_parameters_false", "ddp_find_unused_parameters_true", "fsdp", "deepspeed")
"""Strategies whose processes run the whole program again."""

DEVICES = {"cpu": "cpu", "gpu": "cuda", "cuda": "cuda", "mps": "mps"}
"""PyTorch's name of each accelerator of Lightning's."""


def make(settings: TrainingSettings) -> "Training":
    """Build the training.

    Args:
        settings: The settings.

    Returns:
        The training.

    Raises:
        InputError: For settings that cannot be used.
    """
    there = device(settings)
    strategy = settings.trainer.node.get("strategy")
    if strategy in WHOLE_PROGRAM:
        raise _whole_program(strategy)
    optimizer = settings.optimizer.build(torch.optim.Optimizer)
    scheduler = settings.scheduler.build() if settings.scheduler.node.get("_target_") else None
    # Refused before anything is trained.
    with _refusing("optimizer"):
        made = optimizer([torch.nn.Parameter(torch.zeros(1))])
    if scheduler is not None:
        with _refusing("scheduler"):
            scheduler(made)

    from lightning import Callback, Trainer
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from dua_lightning.training import Training

    def callbacks() -> list[Callback]:
        return [choice.build(Callback) for choice in settings.callbacks.values()]

    trainer = settings.trainer.build(Trainer)
    # At each of a run's many fits Lightning would repeat the hardware and a tip, and that of a GPU left unused.
    warnings.filterwarnings("ignore", "GPU available but not used")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    # A profiler that was asked for tells what it found.
    logging.getLogger("lightning.pytorch.profilers").setLevel(logging.INFO)
    with _refusing("trainer", MisconfigurationException):
        processes = trainer(logger=False, callbacks=callbacks()).world_size
    if strategy == "auto" and processes > 1:
        raise _whole_program(f"auto with trainer.devices={settings.trainer.node.get('devices')}")
    checkpoints = settings.trainer.node.get("enable_checkpointing")
    return Training(
        trainer=trainer,
        optimizer=optimizer,
        scheduler=scheduler,
        callbacks=callbacks,
        reset_batch_norm=settings.reset_batch_norm,
        keep_best=check(checkpoints, bool | None, "trainer.enable_checkpointing") is not False,
        device=there,
    )


def _whole_program(strategy: str) -> InputError:
    return InputError(
        f"trainer.strategy={strategy} cannot be used: its processes would run the whole program again; use "
        "trainer.strategy=ddp_spawn, whose processes live for one training"
    )


@contextmanager
def _refusing(group: str, *own: type[Exception]) -> Iterator[None]:
    """Turns what Lightning, by errors of its own, or PyTorch says of the group's settings into an `InputError`."""
    kinds: tuple[type[Exception], ...] = (*own, AssertionError, LookupError, TypeError, ValueError)
    try:
        yield
    except InputError:
        raise
    except kinds as error:
        raise InputError(f"the settings {group}.* cannot be used: {' '.join(str(error).split())}") from error


def device(settings: TrainingSettings) -> torch.device:
    """Choose the device of everything but training: the first device of the Trainer's accelerator.

    Args:
        settings: The settings of the training.

    Returns:
        The device.

    Raises:
        InputError: PyTorch does not see such a device.
    """
    name = check(settings.trainer.node.get("accelerator", "auto"), str, "trainer.accelerator")
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if there[kind]))
    if name not in DEVICES:
        raise InputError(f"trainer.accelerator={name} cannot be used; there are {', '.join(DEVICES)} and auto")
    if not there[DEVICES[name]]:
        raise InputError(f"trainer.accelerator={name} cannot be used: PyTorch sees none here; use trainer=cpu")
    return torch.device(DEVICES[name])
