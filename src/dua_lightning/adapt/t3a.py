"""Test-time templates.

[Iwasawa2021] Y. Iwasawa, Y. Matsuo. Test-time classifier adjustment module for model-agnostic domain generalization.
NeurIPS 2021.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dua_lightning.adapt.outputs import features_of, linear_head, name_of
from dua_lightning.errors import InputError
from dua_lightning.params import State
from dua_lightning.tasks import Batch, Task


@dataclass(frozen=True)
class T3A:
    """Each of the task's rows of the head becomes the mean of itself and of features of its class: T3A [Iwasawa2021].

    The supports of a class are its own row and the features of those images that the given model predicts to be of it.
    It keeps those with the lowest entropy of the prediction. They are scaled to the norm 1 before their mean is taken,
    and so are the means; the biases become 0. A class without images keeps the direction of its row. The publication
    adds the images one by one and predicts each on the way; here all are there before.

    The mean norm of the rows stays what it was, so that the softmax is about as sure as before; predictions are the
    same at any norm.

    Args:
        filter_k: The largest number of supports of a class, its own row among them; `None` for all.

    Raises:
        InputError: The number cannot be used, the head is no linear layer, the data are empty, or a logit is not
            finite.
    """

    filter_k: int | None = 20
    needs_labels: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.filter_k is not None and self.filter_k < 1:
            raise InputError(f"T3A keeps 1 or more supports of a class, got filter_k={self.filter_k}")

    def check(self, net: nn.Module) -> None:
        linear_head(net, "T3A")

    def trainable(self, net: nn.Module) -> int:
        return 0

    def __call__(self, net: nn.Module, state: State, task: Task, data: Iterable[Batch]) -> State:
        head = linear_head(net, "T3A")
        name = name_of(net, head.weight)
        given = state[name][task.classes].cpu().double()
        features, logits = features_of(net, state, task, [x for x, _ in data])
        bias = 0.0 if head.bias is None else state[name_of(net, head.bias)][task.classes].cpu().double()
        templates = self._templates(torch.cat([given, features]), torch.cat([given @ given.T + bias, logits]))
        changed = {name: state[name].clone()}
        changed[name][task.classes] = (templates * given.norm(dim=1).mean()).to(changed[name])
        if head.bias is not None:
            name = name_of(net, head.bias)
            changed[name] = state[name].clone()
            changed[name][task.classes] = 0
        return state | changed

    def _templates(self, supports: Tensor, logits: Tensor) -> Tensor:
        """The templates `(classes, features)` of the rows of the head and, after them, of the images' features."""
        classes = logits.shape[1]
        of_class = torch.cat([torch.arange(classes), logits[classes:].argmax(1)])
        unsure = torch.special.entr(logits.softmax(1)).sum(1)
        found = []
        for c in range(classes):
            own = (of_class == c).nonzero().flatten()
            sure = own[unsure[own].argsort(stable=True)[: self.filter_k]]
            found.append(nn.functional.normalize(supports[sure], dim=1).sum(0))
        return nn.functional.normalize(torch.stack(found), dim=1)
