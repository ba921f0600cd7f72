"""Trainings of a second, and a callback that sees what they do."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from lightning import Callback
from torch import Tensor

from dua_lightning.params import clone
from dua_lightning.training import Plateau, Training
from dua_lightning.training.fit import paper_trainer


def training(
    max_epochs: int = 3,
    lr: float = 0.05,
    momentum: float = 0.9,
    watch: Sequence[Callback] = (),
    plateau: dict[str, Any] | None = None,
    reset_batch_norm: bool = False,
    **trainer: Any,
) -> Training:
    """SGD and the plateau rule; `trainer` are further arguments of Lightning's."""
    rule: Callable[[], list[Callback]] = lambda: [Plateau(**(plateau or {})), *watch]  # noqa: E731
    return Training(
        trainer=partial(paper_trainer, max_epochs=max_epochs, **trainer),
        optimizer=partial(torch.optim.SGD, lr=lr, momentum=momentum),
        callbacks=rule,
        reset_batch_norm=reset_batch_norm,
    )


class Watch(Callback):
    """Each epoch as it looked from outside."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.states: list[dict[str, Tensor]] = []
        self.logged: list[dict[str, float]] = []

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.states.append(clone(pl_module.net.state_dict()))
        self.logged.append({name: float(value) for name, value in trainer.callback_metrics.items()})
