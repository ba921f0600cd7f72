"""A LightningModule that knows nothing of this package but the one line that asks regularisers for their loss."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from dua_lightning.params import Params
from dua_lightning.regularise import regularisation
from dua_lightning.tasks import Task

FIRST, SECOND = Task("first", slice(0, 3)), Task("second", slice(3, 6))


class Stranger(LightningModule):
    """Six classes, the first three of a first task; `asks` says whether it asks regularisers for their loss."""

    def __init__(self, optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW, asks: bool = True) -> None:
        super().__init__()
        self.optimizer = optimizer
        self.asks = asks
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.encoder = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU())
            self.head = nn.Linear(16, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x))

    def extra(self, x: Tensor, logits: Tensor) -> Tensor | float:
        return regularisation(self, x, logits) if self.asks else 0.0

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        logits = self(x)
        return nn.functional.cross_entropy(logits, y) + self.extra(x, logits)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        x, y = batch
        self.log("val_accuracy", (self(x).argmax(1) == y).float().mean())

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(self.parameters(), lr=0.01)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)}


class InTheLoss(Stranger):
    """The same with quadratic penalties written into the loss: what the callbacks' closed forms have to equal."""

    def __init__(self, penalties: list[tuple[Params, Params, float]], **settings: Any) -> None:
        super().__init__(**settings)
        self.penalties = penalties

    def extra(self, x: Tensor, logits: Tensor) -> Tensor | float:
        theta: Mapping[str, Tensor] = dict(self.named_parameters())
        return sum(
            strength * (omega[name] * (theta[name] - anchor[name]) ** 2).sum()
            for anchor, omega, strength in self.penalties
            for name in omega
        )


def loader(task: Task, n: int = 48, batch_size: int = 8, seed: int = 0) -> DataLoader[Any]:
    """Batches `[x, y]` of a task, in a fixed order."""
    stream = torch.Generator().manual_seed(seed + task.classes.start)
    y = torch.randint(task.classes.start, task.classes.stop, (n,), generator=stream)
    x = torch.randn(n, 8, generator=stream) + torch.nn.functional.one_hot(y, 8)
    return DataLoader(TensorDataset(x, y), batch_size=batch_size)
