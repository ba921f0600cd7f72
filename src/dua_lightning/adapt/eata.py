"""Entropy minimisation on reliable and non-redundant images, without forgetting.

[Niu2022] S. Niu, J. Wu, Y. Zhang, Y. Chen, S. Zheng, P. Zhao, M. Tan. Efficient test-time model adaptation without
forgetting. ICML 2022.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from dua_lightning.adapt.finetune import Objective
from dua_lightning.adapt.without_labels import TunesWithoutLabels, entropies
from dua_lightning.errors import InputError
from dua_lightning.params import device_of, inputs
from dua_lightning.tasks import Batch, Task, refusing_batch


@dataclass(frozen=True)
class EATA(TunesWithoutLabels):
    """Train gamma and beta on the entropy of chosen images: EATA of [Niu2022].

    An image is chosen whose entropy E is below E0, a share of ln C, and whose prediction has a cosine below a limit
    with the moving mean of the chosen images' predictions, in which a batch counts a tenth. The loss of a batch is the
    mean of exp(E0 - E) E over its chosen images, where the weight has no gradient, plus strength times the sum of
    F (theta - theta at the start)^2. A batch of which nothing is chosen takes no step.

    F is the diagonal Fisher information of pseudo-labels, the mean over batches of the squared gradient of the batch's
    mean. The authors measure it on 2,000 images without a shift. A device has none, so that F is of the user's own
    images before the first step.

    The defaults are the authors' for CIFAR-10-C (SGD, learning rate 0.005, batches of 64, strength 1). For ImageNet-C
    they take the learning rate 0.00025 and the strength 2,000. Their limits of the cosine are 0.4 of 10 classes and
    0.05 of 1,000. A prediction that is even over C classes has a cosine of 1 / sqrt(C) with a certain one, so that
    `"auto"` takes 0.4 sqrt(10 / C).

    Args:
        lr: The learning rate.
        optimizer: `"adam"` or `"sgd"`.
        margin: E0 as a share of ln C, the largest entropy.
        similarity: The limit of the cosine's absolute value, or `"auto"`.
        strength: The strength of the pull towards the start; with 0 it is the authors' ETA. The other arguments are
            those of `TunesWithoutLabels`.

    Raises:
        InputError: A number cannot be used, or `TunesWithoutLabels` raises it.
    """

    lr: float = 5e-3
    optimizer: Literal["adam", "sgd"] = "sgd"
    margin: float = 0.4
    similarity: float | Literal["auto"] = "auto"
    strength: float = 1.0
    name: ClassVar[str] = "EATA"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_margin(self.margin, self.name)
        if self.similarity != "auto" and not self.similarity > 0:
            raise InputError(f"the similarity of {self.name} is above 0 or 'auto', got {self.similarity!r}")
        if not 0 <= self.strength < math.inf:
            raise InputError(f"the strength of {self.name} is at least 0 and finite, got {self.strength}")

    def _descent(self, net: nn.Module, task: Task, data: Iterable[Batch]) -> tuple[torch.optim.Optimizer, Objective]:
        classes = task.classes.stop - task.classes.start
        margin = self.margin * math.log(classes)
        limit = 0.4 * math.sqrt(10 / classes) if self.similarity == "auto" else self.similarity
        parameters = list(self._trained(net).values()) if self.strength else []
        start = [parameter.detach().clone() for parameter in parameters]
        fisher = _fisher(net, parameters, task, data) if parameters else []
        mean: Tensor | None = None

        def loss(logits: Tensor, _: Tensor | None) -> Tensor:
            nonlocal mean
            entropy, p = entropies(logits), logits.detach().softmax(1)
            # NaN is chosen, so that it is seen and refused.
            chosen = ~(entropy.detach() >= margin)
            if mean is not None:
                chosen &= ~(torch.cosine_similarity(mean[None], p).abs() >= limit)
            if not chosen.any():
                return logits.new_zeros(())
            new = p[chosen].mean(0)
            mean = new if mean is None else 0.9 * mean + 0.1 * new
            entropy = entropy[chosen]
            pulls = (f * (p - s).square() for f, p, s in zip(fisher, parameters, start, strict=True))
            pull = sum((pull.sum() for pull in pulls), logits.new_zeros(()))
            return ((margin - entropy.detach()).exp() * entropy).mean() + self.strength * pull

        return self._plain_optimizer(net), loss


def check_margin(margin: float, adaptation: str) -> None:
    """Refuse a limit of the entropy that chooses no image.

    Args:
        margin: The limit as a share of the largest entropy.
        adaptation: The adaptation's name, for the message.

    Raises:
        InputError: It is not above 0.
    """
    if not margin > 0:
        raise InputError(f"the margin of {adaptation} is a share of the largest entropy, above 0, got {margin}")


def _fisher(net: nn.Module, parameters: list[nn.Parameter], task: Task, data: Iterable[Batch]) -> list[Tensor]:
    """The mean over batches of the squared gradient of the cross-entropy with the predicted classes."""
    device, batches = device_of(net.state_dict()), 0
    fisher = [torch.zeros_like(parameter) for parameter in parameters]
    for x, _ in data:
        with refusing_batch(x, task):
            logits = net(inputs(net, x, device))[:, task.classes]
        loss = nn.functional.cross_entropy(logits, logits.detach().argmax(1))
        gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
        fisher = [f + g.square() for f, g in zip(fisher, gradients, strict=True)]
        batches += 1
    return [f / max(1, batches) for f in fisher]
