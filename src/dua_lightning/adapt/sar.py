"""Sharpness-aware and reliable entropy minimisation.

[Niu2023] S. Niu, J. Wu, Y. Zhang, Z. Wen, Y. Chen, P. Zhao, M. Tan. Towards stable test-time adaptation in dynamic wild
world. ICLR 2023.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from dua_lightning.adapt.eata import check_margin
from dua_lightning.adapt.finetune import Objective
from dua_lightning.adapt.without_labels import TunesWithoutLabels, entropies
from dua_lightning.errors import InputError
from dua_lightning.tasks import Batch, Task


@dataclass(frozen=True)
class SAR(TunesWithoutLabels):
    """Train gamma and beta towards a flat minimum of the entropy of reliable images: SAR of [Niu2023].

    An image is reliable if its entropy is below a share of ln C. A step takes the gradient of the reliable images' mean
    entropy, goes up along it to the distance rho, takes the gradient there, of those that are reliable there too, and
    steps with it from where it began. A batch of which nothing is reliable takes no step. Where the moving mean of the
    second entropies, in which a batch counts a tenth, falls below `recovery`, weights, optimizer and mean begin anew.

    The defaults are the authors' for ResNet-50 (SGD, learning rate 0.00025, batches of 64); for ViT they take 0.001.
    Their 0.2 nats belong to ImageNet's 1,000 classes. They leave out the last layers (layer4 of a ResNet, the last
    three blocks of a ViT), which no rule tells for other networks: here all are trained.

    Args:
        lr: The learning rate.
        optimizer: `"adam"` or `"sgd"`, for the step with the second gradient.
        margin: The limit of the entropy as a share of ln C, the largest one.
        rho: The distance of the ascent, in the norm of all trained parameters together.
        recovery: The mean entropy in nats below which the training begins anew; 0 for never. The other arguments are
            those of `TunesWithoutLabels`.

    Raises:
        InputError: A number cannot be used, or `TunesWithoutLabels` raises it.
    """

    lr: float = 2.5e-4
    optimizer: Literal["adam", "sgd"] = "sgd"
    margin: float = 0.4
    rho: float = 0.05
    recovery: float = 0.2
    name: ClassVar[str] = "SAR"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_margin(self.margin, self.name)
        if not 0 <= self.rho < math.inf:
            raise InputError(f"the rho of {self.name} is at least 0 and finite, got {self.rho}")
        if not self.recovery >= 0:
            raise InputError(f"the recovery of {self.name} is an entropy, at least 0, got {self.recovery}")

    def _descent(self, net: nn.Module, task: Task, data: Iterable[Batch]) -> tuple[torch.optim.Optimizer, Objective]:
        margin = self.margin * math.log(task.classes.stop - task.classes.start)
        steps = _SharpnessAware(self._plain_optimizer(net), margin, self.rho, self.recovery)
        return steps, steps.loss


class _SharpnessAware(torch.optim.Optimizer):
    """Steps with the gradient at the end of an ascent, and the loss that both gradients are of."""

    def __init__(self, base: torch.optim.Optimizer, margin: float, rho: float, recovery: float) -> None:
        super().__init__(base.param_groups, {})
        self.base, self.margin, self.rho, self.recovery = base, margin, rho, recovery
        self.parameters: list[Tensor] = base.param_groups[0]["params"]
        self.start = [parameter.detach().clone() for parameter in self.parameters]
        self.reliable: Tensor | None = None
        self.mean: float | None = None

    def loss(self, logits: Tensor, _: Tensor | None) -> Tensor:
        entropy = entropies(logits)
        # NaN is chosen, so that it is seen and refused.
        chosen = ~(entropy.detach() >= self.margin)
        first = self.reliable is None
        if self.reliable is None:
            self.reliable = chosen
        else:
            chosen &= self.reliable
        if not chosen.any():
            return logits.new_zeros(())
        found = entropy[chosen].mean()
        if not first:
            new = float(found.detach())
            self.mean = new if self.mean is None else 0.9 * self.mean + 0.1 * new
        return found

    @torch.no_grad()
    def step(self, closure: Callable[[], Any]) -> Any:  # type: ignore[override]
        self.reliable = None
        loss = torch.enable_grad()(closure)()
        trained = [(p, p.grad, p.detach().clone()) for p in self.parameters if p.grad is not None]
        if not trained:
            return loss
        norm = torch.stack([gradient.norm() for _, gradient, _ in trained]).norm()
        for parameter, gradient, _ in trained:
            parameter += self.rho * gradient / (norm + 1e-12)
        torch.enable_grad()(closure)()
        for parameter, _, before in trained:
            parameter.copy_(before)
        self.base.step()
        if self.mean is not None and self.mean < self.recovery:
            for parameter, start in zip(self.parameters, self.start, strict=True):
                parameter.copy_(start)
            self.base.state.clear()
            self.mean = None
        return loss
