"""The paper's learning-rate rule (De Lange et al., CVPR 2020, Section 5.1)."""

from typing import Any

from lightning import Callback, LightningModule, Trainer

from dua_lightning.errors import InputError


class Plateau(Callback):
    """Lowers the learning rate where a metric stands still, and then stops.

    After `patience` epochs in a row whose metric is not above the best so far, all learning rates are multiplied by
    `factor`; after `stop_after` more such epochs training stops. An epoch with a new best metric starts the count anew.
    Where the Trainer validates, epochs without a validation do not count.

    PyTorch's `ReduceLROnPlateau` counts anew after each fall, and could fall again before the stop.

    Args:
        monitor: The name of the metric, higher being better.
        patience: Epochs without a new best until the learning rate falls.
        factor: The number that it is multiplied by, between 0 and 1.
        stop_after: Further epochs without a new best until training stops.

    Raises:
        InputError: For a setting that is out of range; while training, where the metric is not logged.
    """

    def __init__(
        self, monitor: str = "val_accuracy", patience: int = 5, factor: float = 0.1, stop_after: int = 5
    ) -> None:
        for name, epochs in (("patience", patience), ("stop_after", stop_after)):
            if epochs < 1:
                raise InputError(f"the plateau rule's {name} is at least 1, got {epochs}")
        if not 0 < factor < 1:
            raise InputError(f"the plateau rule's factor is between 0 and 1, got {factor}")
        self.monitor = monitor
        self.patience = patience
        self.factor = factor
        self.stop_after = stop_after
        self.best = float("-inf")
        self.epochs_without_best = 0
        self.validated = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # A fit that continues after its last epoch has nothing left to do.
        self._stop_where_exhausted(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        validated, self.validated = self.validated, False
        if trainer.enable_validation and not validated:
            return
        if self.monitor not in trainer.callback_metrics:
            logged = ", ".join(sorted(trainer.callback_metrics)) or "nothing"
            raise InputError(
                f"the plateau rule watches {self.monitor}, and what was logged is {logged}; watch one of these, or "
                "leave the rule out"
            )
        value = float(trainer.callback_metrics[self.monitor])
        if value > self.best:
            self.best, self.epochs_without_best = value, 0
            return
        self.epochs_without_best += 1
        if self.epochs_without_best == self.patience:
            for optimizer in trainer.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] *= self.factor
        self._stop_where_exhausted(trainer)

    def _stop_where_exhausted(self, trainer: Trainer) -> None:
        if self.epochs_without_best >= self.patience + self.stop_after:
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "epochs_without_best": self.epochs_without_best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.epochs_without_best = state_dict["best"], state_dict["epochs_without_best"]
