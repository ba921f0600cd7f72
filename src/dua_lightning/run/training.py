"""How experts are trained, from the configuration: Trainer, optimizer, scheduler, callbacks, logger."""

import torch
from lightning import Callback, Trainer
from omegaconf import DictConfig

from dua_lightning.errors import InputError
from dua_lightning.run.build import build, check
from dua_lightning.training import Training

SETTINGS = ("trainer", "optimizer", "scheduler", "callbacks", "training")
"""Groups of the configuration that say how experts are trained."""

HARMLESS = (
    *("default_root_dir", "enable_model_summary", "enable_progress_bar", "log_every_n_steps", "profiler"),
    *("limit_test_batches", "limit_predict_batches"),
)
"""Settings of the Trainer that change no bit of an expert."""

WHOLE_PROGRAM = ("ddp", "fsdp", "deepspeed")
"""Strategies whose processes run the whole program again."""

DEVICES = {"cpu": "cpu", "gpu": "cuda", "cuda": "cuda", "mps": "mps"}


def make(cfg: DictConfig) -> Training:
    """The training that the configuration asks for. Raises `InputError` for settings that cannot be used."""
    if str(cfg.trainer.get("strategy")).partition("_")[0] in WHOLE_PROGRAM and "spawn" not in str(cfg.trainer.strategy):
        raise InputError(
            f"trainer.strategy={cfg.trainer.strategy} cannot be used: its processes would run the whole program again; "
            "use trainer.strategy=ddp_spawn, whose processes live for one training"
        )

    def callbacks() -> list[Callback]:
        return [build(node, f"callbacks.{name}", Callback) for name, node in cfg.callbacks.items() if node is not None]

    callbacks()
    return Training(
        trainer=build(cfg.trainer, "trainer", Trainer),
        optimizer=build(cfg.optimizer, "optimizer", torch.optim.Optimizer),
        scheduler=build(cfg.scheduler, "scheduler") if cfg.scheduler.get("_target_") else None,
        callbacks=callbacks,
        reset_batch_norm=check(cfg.training.reset_batch_norm, bool, "training.reset_batch_norm"),
        keep_best=check(cfg.trainer.get("enable_checkpointing", True), bool | None, "trainer.enable_checkpointing")
        is not False,
    )


def device(cfg: DictConfig) -> torch.device:
    """Where everything but training runs: the first device of the Trainer's accelerator.

    Raises `InputError` for one that PyTorch does not see.
    """
    name = check(cfg.trainer.accelerator, str, "trainer.accelerator")
    if name == "auto":
        name = "gpu" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name not in DEVICES:
        raise InputError(f"trainer.accelerator={name} cannot be used; there are {', '.join(DEVICES)} and auto")
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there[DEVICES[name]]:
        raise InputError(f"trainer.accelerator={name} cannot be used: PyTorch sees none here; use trainer=cpu")
    return torch.device(DEVICES[name])
