"""The module in a bare Trainer, whatever that is asked for: the right values are logged."""

from typing import Any

import pytest
from lightning import Callback, LightningModule, Trainer

from dua_lightning.data.server import ServerTask
from dua_lightning.evaluation import accuracy
from dua_lightning.params import clone
from dua_lightning.training import Plateau
from dua_lightning.training.fit import paper_optimizer
from dua_lightning.training.module import ExpertModule
from tests.helpers import tiny

QUIET: Any = {
    "accelerator": "cpu",
    "devices": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
pytestmark = pytest.mark.filterwarnings("ignore")


class Seen(Callback):
    """The validations that a Trainer makes, and the losses of its training batches."""

    def __init__(self, data: ServerTask) -> None:
        self.data = data
        self.validations: list[tuple[float, float]] = []
        self.sanity = 0
        self.losses: list[list[tuple[float, int]]] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.losses.append([])

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses[-1].append((float(outputs["loss"]), len(batch[1])))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            self.sanity += 1
            return
        net: Any = pl_module.net
        expected = accuracy(net, clone(net.state_dict()), self.data.task, self.data.val_dataloader())
        self.validations.append((float(trainer.callback_metrics["val_accuracy"]), expected))

    @property
    def train_loss(self) -> float:
        """The mean over the images of the last epoch."""
        losses, counts = zip(*self.losses[-1], strict=True)
        return sum(loss * count for loss, count in zip(losses, counts, strict=True)) / sum(counts)


def bare(data: ServerTask, *callbacks: Callback, **arguments: Any) -> tuple[Trainer, ExpertModule]:
    net = tiny.network()
    return Trainer(**{**QUIET, **arguments}, callbacks=list(callbacks)), ExpertModule(net, data.task, paper_optimizer)


# Arguments of the Trainer, the number of validations, and the batches of the last epoch, of five there are.
ASKED: dict[str, tuple[dict[str, Any], int, int]] = {
    "as it is": ({"max_epochs": 2}, 2, 4),
    "a sanity pass": ({"max_epochs": 2, "num_sanity_val_steps": -1}, 2, 4),
    "fast_dev_run": ({"fast_dev_run": True}, 1, 1),
    "overfit_batches": ({"overfit_batches": 3, "max_epochs": 2}, 2, 3),
    "an end within an epoch": ({"max_steps": 7}, 1, 3),
    "an end at an epoch's end": ({"max_steps": 8}, 2, 4),
    "two validations an epoch": ({"max_epochs": 2, "val_check_interval": 0.5}, 4, 4),
    "a validation every second epoch": ({"max_epochs": 3, "check_val_every_n_epoch": 2}, 1, 4),
    "no validation": ({"max_epochs": 2, "limit_val_batches": 0}, 0, 4),
    "some batches": ({"max_epochs": 2, "limit_train_batches": 2}, 2, 2),
    "accumulated gradients": ({"max_epochs": 1, "accumulate_grad_batches": 3}, 1, 4),
}


@pytest.mark.parametrize("case", ASKED)
def test_what_is_logged_is_right_whatever_the_trainer_is_asked(case: str) -> None:
    arguments, validations, batches = ASKED[case]
    data = tiny.benchmark().server[0]
    seen = Seen(data)
    rule = [] if arguments.get("limit_val_batches") == 0 else [Plateau(patience=1)]
    trainer, module = bare(data, seen, *rule, **arguments)
    trainer.fit(module, datamodule=data)
    assert (len(seen.validations), len(seen.losses[-1])) == (validations, batches)
    assert all(logged == pytest.approx(expected) for logged, expected in seen.validations)
    # Lightning divides a batch's loss by the number of batches that are accumulated.
    shown = seen.train_loss * arguments.get("accumulate_grad_batches", 1)
    assert float(trainer.callback_metrics["train_loss"]) == pytest.approx(shown, rel=1e-5)
    assert ("val_accuracy" in trainer.callback_metrics) == (validations > 0)
    assert all(rule.epochs_without_best + 1 <= validations for rule in rule)


def test_a_sanity_pass_is_no_epoch_and_changes_nothing() -> None:
    data = tiny.benchmark().server[0]
    states = []
    for steps in (0, 2):
        seen, rule = Seen(data), Plateau()
        trainer, module = bare(data, seen, rule, max_epochs=2, num_sanity_val_steps=steps)
        trainer.fit(module, datamodule=data)
        states.append(clone(module.net.state_dict()))
        assert seen.sanity == (steps > 0)
    assert tiny.same(*states)


def test_a_network_is_validated_tested_and_asked_without_a_fit() -> None:
    data = tiny.benchmark().server[0]
    trainer, module = bare(data)
    for check, name, loader in (
        (trainer.validate, "val_accuracy", data.val_dataloader()),
        (trainer.test, "test_accuracy", data.test_dataloader()),
    ):
        (found,) = check(module, datamodule=data, verbose=False)
        assert found == {name: pytest.approx(accuracy(module.net, clone(module.net.state_dict()), data.task, loader))}
    logits = trainer.predict(module, datamodule=data)
    assert logits is not None
    assert sum(map(len, logits)) == len(data.train)


def test_overfitted_batches_are_the_same_in_every_epoch() -> None:
    data = tiny.benchmark().server[0]
    batches: list[list[float]] = []

    class Sums(Callback):
        def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            batches.append([])

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            batches[-1].append(float(batch[0].sum()))

    trainer, module = bare(data, Sums(), overfit_batches=3, max_epochs=2)
    trainer.fit(module, datamodule=data)
    first, second = batches
    assert first == second
    assert len(set(first)) == 3
