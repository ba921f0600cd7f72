"""Linear probing before fine-tuning: a pretrained network rests while the head of a new task begins.

[Kumar2022] A. Kumar, A. Raghunathan, R. Jones, T. Ma, P. Liang. Fine-tuning can distort pretrained features and
underperform out-of-distribution. ICLR 2022.
[Li2017] Z. Li, D. Hoiem. Learning without forgetting. IEEE TPAMI 40(12), 2017.
"""

from lightning import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from dua_lightning.errors import InputError
from dua_lightning.params import body_names
from dua_lightning.tasks import Task


class LinearProbing(Callback):
    """Trains the new columns of the head alone in the first epochs of a fit: linear probing, then fine-tuning.

    The gradients of a head that is still random move a pretrained body by chance [Kumar2022]. [Li2017] begins each
    task of LwF in this way and calls it the warm-up step; the authors' release leaves it out.

    The body's gradients are dropped before the optimizer's step, so that neither weight decay nor momentum nor the
    penalty of a regulariser that stands before this callback moves its weights. Where the module has a `task`, the
    gradients of the head's other columns become 0. Batch-norm statistics go on learning. A fit that continues after an
    interruption rests for the same epochs.

    Lightning's `BackboneFinetuning` gives the body to the optimizer only when it begins to learn, in a group that a
    scheduler made before does not know, and lets the head's other columns learn.

    Args:
        epochs: The number of epochs in which the body rests, at least 0.

    Raises:
        InputError: For a number of epochs below 0; while training, for a module without `head`.
    """

    def __init__(self, epochs: int = 1) -> None:
        if epochs < 0:
            raise InputError(f"the epochs of linear probing are at least 0, got {epochs}")
        self.epochs = epochs

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if getattr(pl_module, "head", None) is None:
            raise InputError(
                f"linear probing trains the head alone, and this {type(pl_module).__name__} has none; give it a "
                "property `head`, or leave linear probing out"
            )

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if trainer.current_epoch >= self.epochs:
            return
        body = body_names(pl_module)
        for name, p in pl_module.named_parameters():
            if name in body:
                p.grad = None
            elif isinstance(task := getattr(pl_module, "task", None), Task) and p.grad is not None:
                # The rows of the weights are the columns of the logits.
                new = p.grad[task.classes].clone()
                p.grad.zero_()[task.classes] = new
