"""EWC, MAS, LwF and L2-transfer in a stranger's LightningModule and Trainer."""

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor

from dua_lightning.data.images import images
from dua_lightning.data.server import ServerTask
from dua_lightning.errors import InputError
from dua_lightning.regularise import EWC, MAS, L2Transfer, LwF, QuadraticPenalty, Regulariser
from dua_lightning.tasks import Task
from tests.helpers.nets import close, equal
from tests.lightning.stranger import FIRST, SECOND, InTheLoss, Stranger, loader

QUADRATIC = [
    pytest.param(lambda: EWC(400.0), id="EWC"),
    pytest.param(lambda: MAS(1.0), id="MAS"),
    pytest.param(lambda: L2Transfer(0.3), id="L2Transfer"),
]
EVERY = [*QUADRATIC, pytest.param(lambda: LwF(1.0, 2.0), id="LwF")]
QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "devices": 1,
    "logger": False,
    "enable_checkpointing": False,
    "num_sanity_val_steps": 0,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "max_epochs": 2,
}
TRAINERS = {
    "plain": {},
    "clipped": {"gradient_clip_val": 0.5},
    "clipped by value": {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
    "accumulated": {"accumulate_grad_batches": 3},
    "both": {"accumulate_grad_batches": 2, "gradient_clip_val": 0.5},
}


def consolidated(make: Any, module: Stranger | None = None) -> tuple[Any, Stranger]:
    """The regulariser after a first task, and the module at its end."""
    module = module or Stranger()
    regulariser = make()
    Trainer(**QUIET, callbacks=[regulariser]).fit(module, loader(FIRST))
    regulariser.consolidate(module, FIRST, loader(FIRST))
    return regulariser, module


def moved(module: Stranger) -> Stranger:
    """A copy whose weights have moved on, so that a penalty has something to pull at."""
    module = copy.deepcopy(module)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.05)
    return module


@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, partial(torch.optim.SGD, momentum=0.9)], ids=["adamw", "sgd"])
@pytest.mark.parametrize("make", QUADRATIC)
def test_the_closed_form_is_the_penalty_in_the_loss(make: Any, optimizer: Any, trainer: str) -> None:
    regulariser, module = consolidated(make, Stranger(optimizer))
    start = moved(module).state_dict()
    written = InTheLoss([(regulariser.anchor, regulariser.omega, regulariser.strength)], optimizer=optimizer)
    found, expected, free = Stranger(optimizer), written, Stranger(optimizer)
    for one, callbacks in ((found, [regulariser]), (expected, []), (free, [])):
        one.double().load_state_dict(start)
        settings = QUIET | TRAINERS[trainer] | {"precision": "64-true"}
        Trainer(**settings, callbacks=callbacks).fit(one, loader(SECOND))
    close(found.state_dict(), expected.state_dict(), 1e-7)
    assert not torch.allclose(found.encoder[0].weight, free.encoder[0].weight, rtol=1e-3)


def test_distillation_lowers_the_distance_from_the_teacher_and_reaches_the_loss() -> None:
    regulariser, teacher = consolidated(lambda: LwF(20.0))
    x = torch.cat([x for x, _ in loader(SECOND)])

    def distance(callbacks: list[Regulariser]) -> float:
        student = copy.deepcopy(teacher)
        Trainer(**(QUIET | {"max_epochs": 6}), callbacks=callbacks).fit(student, loader(SECOND))
        with torch.no_grad():
            fixed = copy.deepcopy(teacher).eval()
            p, q = ((m(x)[:, FIRST.classes] / 2).softmax(1) for m in (student.eval(), fixed))
        return float((p - q).abs().mean())

    assert distance([regulariser]) < 0.7 * distance([])


@pytest.mark.parametrize("make", EVERY)
def test_bfloat16_passes_leave_weights_and_penalties_in_float32(make: Any) -> None:
    regulariser, module = consolidated(make)
    found, free = moved(module), moved(module)
    Trainer(**QUIET, precision="bf16-mixed", callbacks=[regulariser]).fit(found, loader(SECOND))
    Trainer(**QUIET, precision="bf16-mixed").fit(free, loader(SECOND))
    assert {p.dtype for p in found.parameters()} == {torch.float32}
    assert not torch.allclose(found.encoder[0].weight, free.encoder[0].weight, rtol=1e-3)


@pytest.mark.parametrize("make", EVERY)
def test_the_first_task_is_trained_as_without_a_regulariser(make: Any) -> None:
    found, free = Stranger(), Stranger()
    Trainer(**QUIET, callbacks=[make()]).fit(found, loader(FIRST))
    Trainer(**QUIET).fit(free, loader(FIRST))
    equal(found.state_dict(), free.state_dict())
    assert make().acts_on_first_task is False


@pytest.mark.parametrize("make", EVERY)
def test_the_state_of_the_callback_is_all_that_it_remembers(make: Any) -> None:
    regulariser, module = consolidated(make)
    other = make()
    other.load_state_dict(copy.deepcopy(regulariser.state_dict()))
    ends = []
    for one in (regulariser, other):
        student = moved(module)
        Trainer(**QUIET, callbacks=[one]).fit(student, loader(SECOND))
        ends.append(student.state_dict())
    equal(*ends)


@pytest.mark.parametrize("make", EVERY)
def test_a_training_resumed_from_a_checkpoint_has_the_bits_of_an_unbroken_one(make: Any, tmp_path: Path) -> None:
    regulariser, module = consolidated(make)
    settings = QUIET | {"enable_checkpointing": True}

    def train(epochs: int, name: str, callback: Regulariser, resume: Path | None = None) -> dict[str, Tensor]:
        student = moved(module)
        kept = ModelCheckpoint(tmp_path / name, "{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
        trainer = Trainer(**(settings | {"max_epochs": epochs}), callbacks=[callback, kept])
        trainer.fit(student, loader(SECOND), ckpt_path=resume, weights_only=True)
        return student.state_dict()

    unbroken = train(4, "unbroken", copy.deepcopy(regulariser))
    train(2, "broken", copy.deepcopy(regulariser))
    # The callback's own state comes from the checkpoint.
    equal(train(4, "again", make(), tmp_path / "broken" / "epoch=1.ckpt"), unbroken)


def test_lightnings_own_callbacks_and_flags_work_beside_it(tmp_path: Path) -> None:
    regulariser, module = consolidated(lambda: EWC(400.0))
    logger = CSVLogger(tmp_path, name="", version="")
    stop = EarlyStopping("val_accuracy", mode="max", patience=1, stopping_threshold=0.0)
    trainer = Trainer(
        **(QUIET | {"logger": logger, "max_epochs": 9}),
        log_every_n_steps=1,
        callbacks=[regulariser, LearningRateMonitor("epoch"), stop],
    )
    trainer.fit(moved(module), loader(SECOND), loader(SECOND, seed=1))
    assert trainer.current_epoch == 1
    assert "lr-AdamW" in (tmp_path / "metrics.csv").read_text()
    quick = Trainer(**QUIET, fast_dev_run=True, callbacks=[regulariser])
    quick.fit(moved(module), loader(SECOND), loader(SECOND))
    assert quick.global_step == 1
    few = Trainer(**QUIET, limit_train_batches=2, callbacks=[regulariser])
    few.fit(moved(module), loader(SECOND))
    assert few.global_step == 4


def test_a_module_that_does_not_ask_for_a_loss_is_told_how() -> None:
    regulariser, _ = consolidated(LwF)
    with pytest.raises(InputError, match=r"training_step of this Stranger .* add regularisation\(self, x, logits\)"):
        Trainer(**QUIET, callbacks=[regulariser]).fit(Stranger(asks=False), loader(SECOND))


@pytest.mark.parametrize("make", QUADRATIC)
def test_a_closed_form_needs_no_question(make: Any) -> None:
    regulariser, module = consolidated(make, Stranger(asks=False))
    Trainer(**QUIET, callbacks=[regulariser]).fit(moved(module), loader(SECOND))


@pytest.mark.parametrize("make", QUADRATIC)
def test_another_module_than_the_consolidated_one_is_refused(make: Any) -> None:
    regulariser, _ = consolidated(make)
    other = Stranger()
    other.encoder[0] = torch.nn.Linear(8, 17)
    with pytest.raises(InputError, match=r"consolidated on weights encoder\.0\.weight \(16, 8\)"):
        Trainer(**QUIET, callbacks=[regulariser]).fit(other, loader(SECOND))


def task_of_pictures() -> ServerTask:
    """Pictures of the second task, in batches of 8 and a last one of 4."""
    x, y = (torch.cat(column) for column in zip(*loader(SECOND, 44), strict=True))
    pixels = (20 * x + 128).clamp(0, 255).byte()[:, :, None, None].expand(-1, -1, 1, 1)
    every = images(pixels[:, :3].contiguous(), y, torch.arange(44), 0.5, 0.5)
    return ServerTask(SECOND, every, every[:6], 8, seed=0)


class OnPictures(Stranger):
    """The first layer sees pictures of three channels."""

    def __init__(self) -> None:
        super().__init__(partial(torch.optim.SGD, momentum=0.9))
        self.encoder[1] = torch.nn.LayerNorm(16)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.nn.functional.pad(x.flatten(1), (0, 5)))


def test_two_processes_train_as_one_with_every_regulariser_at_once() -> None:
    """Over gloo: penalties act after the gradients were summed, and each process takes its part of every batch."""
    data, module = task_of_pictures(), OnPictures()
    together: list[QuadraticPenalty | LwF] = [EWC(4.0), MAS(1.0), L2Transfer(0.3), LwF()]
    for regulariser in together:
        regulariser.consolidate(module, Task("before", SECOND.classes), data.predict_dataloader())
    ends = {}
    for devices in (1, 2):
        student = moved(module)
        strategy = {"strategy": "ddp_spawn"} if devices > 1 else {}
        settings = QUIET | {"devices": devices, "max_epochs": 2} | strategy
        Trainer(**settings, callbacks=copy.deepcopy(together)).fit(student, datamodule=data)
        ends[devices] = student.state_dict()
    torch.testing.assert_close(ends[2], ends[1], rtol=1e-4, atol=1e-6)
    free = moved(module)
    Trainer(**QUIET).fit(free, datamodule=data)
    assert not torch.allclose(ends[1]["encoder.0.weight"], free.encoder[0].weight, rtol=1e-2, atol=1e-4)
