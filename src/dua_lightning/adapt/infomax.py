"""Information maximisation.

[Liang2020] J. Liang, D. Hu, J. Feng. Do we really need to access the source data? Source hypothesis transfer for
unsupervised domain adaptation. ICML 2020.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from dua_lightning.adapt.adabn import AdaBN
from dua_lightning.adapt.finetune import Objective
from dua_lightning.adapt.label_shift import class_prior
from dua_lightning.adapt.outputs import logits_of
from dua_lightning.adapt.without_labels import TunesWithoutLabels, entropies
from dua_lightning.errors import InputError
from dua_lightning.params import batch_norms, body_names
from dua_lightning.tasks import Batch, Task


@dataclass(frozen=True)
class InformationMaximisation(TunesWithoutLabels):
    """Train so that predictions are certain each and diverse together: the loss of SHOT-IM [Liang2020].

    The loss of a batch is the mean entropy of its predictions plus KL(q || pi), where q is the batch's mean prediction
    and pi the shares of the classes that the user is thought to have. With a uniform pi it is the authors' loss, the
    mean entropy minus the entropy of q, up to the constant ln C. They train the whole body by
    SGD for 15 epochs in batches of 64; the mean of a small batch is a rough one.

    A uniform prior pulls a user of few classes towards all of them. `prior="estimated"` takes pi from the predictions
    before the training, those of `AdaBN` or, with given statistics, of the given model. `class_prior` estimates it,
    with one image of each class added.

    Args:
        epochs: The number of passes over the data.
        parameters: `"norms"`, or `"body"` for all weights but the head's, as SHOT does.
        prior: pi, `"uniform"` or `"estimated"`. The other arguments are those of `TunesWithoutLabels`.

    Raises:
        InputError: An argument cannot be used, or `TunesWithoutLabels` raises it.
    """

    epochs: int = 5
    parameters: Literal["norms", "body"] = "norms"
    prior: Literal["uniform", "estimated"] = "uniform"
    name: ClassVar[str] = "information maximisation"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.parameters not in ("norms", "body"):
            raise InputError(f"{self.name} trains the parameters of 'norms' or 'body', got {self.parameters!r}")
        if self.prior not in ("uniform", "estimated"):
            raise InputError(f"the prior of {self.name} is 'uniform' or 'estimated', got {self.prior!r}")

    def _trained(self, net: nn.Module) -> dict[str, nn.Parameter]:
        if self.parameters == "norms":
            return super()._trained(net)
        body = set(body_names(net).values())
        return {name: parameter for name, parameter in net.named_parameters() if name in body}

    def _descent(self, net: nn.Module, task: Task, data: Iterable[Batch]) -> tuple[torch.optim.Optimizer, Objective]:
        classes = task.classes.stop - task.classes.start
        prior = torch.full((classes,), 1 / classes) if self.prior == "uniform" else self._estimated(net, task, data)

        def loss(logits: Tensor, _: Tensor | None) -> Tensor:
            log_q = logits.log_softmax(1).logsumexp(0) - math.log(len(logits))
            return entropies(logits).mean() + (log_q.exp() * (log_q - prior.log().to(log_q))).sum()

        return self._plain_optimizer(net), loss

    def _estimated(self, net: nn.Module, task: Task, data: Iterable[Batch]) -> Tensor:
        """`(classes,)` the class prior of the predictions before the training."""
        state = net.state_dict()
        if self.statistics != "given" and batch_norms(net):
            state = AdaBN(self.images_at_once, self.statistics)(net, state, task, data)
        probabilities = logits_of(net, state, task, [x for x, _ in data]).softmax(1)
        return class_prior(probabilities, pseudo_count=1)
