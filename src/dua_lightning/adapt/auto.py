"""The device's own choice: whether to adapt, and how."""

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from dua_lightning.adapt.adabn import require_batch_norm
from dua_lightning.adapt.base import Adapt, OfExpert, OfExperts, asks
from dua_lightning.adapt.chain import check_adaptations, fewest_together, with_server
from dua_lightning.adapt.criteria import CRITERIA
from dua_lightning.adapt.early_bn import EarlyBN
from dua_lightning.adapt.outputs import linear_head
from dua_lightning.errors import InputError
from dua_lightning.params import State
from dua_lightning.tasks import Batch, Task

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Auto:
    """The device adapts by the candidate that its own unlabelled images speak for, or not at all.

    The images are dealt into folds. Each candidate adapts on all folds but one, and is judged against the given state
    on the one that is left. The candidate that gains the most, averaged over the folds, then adapts on all images, if
    it gains more than the margin on every fold; otherwise the given state is returned as it is. A user with fewer than
    two images for each fold keeps it too. The choice and all gains are logged at the level INFO.

    No criterion is right for everything. `"look"`, for batch-norm statistics, does not take uneven classes for another
    look, since early layers hardly see them. `"likelihood"`, for the head's biases, does take a look that is not put
    right for uneven classes, so that it comes second; `conf/adapt/auto` chains the two. `"statistics"` balances classes
    by predictions, which are poor under another look. `"information"` and `"aetta"` expect classes to be even, and
    `"entropy"` any model to be sure.

    Args:
        candidates: The adaptations, none of which may need labels or experts; of two that are equally good the first is
            taken.
        criterion: The name of the criterion, one of `criteria.CRITERIA`.
        margin: The gain that the candidate must exceed, in nats, or as a share of the images with `"agreement"` and
            `"aetta"`.
        folds: The number of folds.
        applied: The adaptation that is made on all images where a candidate is taken: one that costs too much to be
            tried on every fold, for which the candidate stands. By default it is the candidate itself.

    Raises:
        InputError: An argument cannot be used, a candidate cannot be used, or the criterion cannot judge the network.
    """

    candidates: Sequence[Adapt] = (EarlyBN(),)
    criterion: Literal["look", "statistics", "likelihood", "entropy", "information", "agreement", "aetta"] = "look"
    margin: float = 0.0
    folds: int = 2
    applied: Adapt | None = None
    needs_labels: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_adaptations(self.candidates, "auto", "candidates")
        for one in self.steps:
            if one.needs_labels or asks(one, OfExpert) or asks(one, OfExperts):
                raise InputError(f"auto decides on unlabelled images alone, and {type(one).__name__} needs more")
        if self.criterion not in CRITERIA:
            raise InputError(f"auto has no criterion {self.criterion}; it has {', '.join(CRITERIA)}")
        if self.folds < 2:
            raise InputError(f"auto deals the images into 2 or more folds, got {self.folds}")
        if not 0 <= self.margin < math.inf:
            raise InputError(f"the margin of auto is 0 or more and finite, got {self.margin}")

    @property
    def steps(self) -> Sequence[Adapt]:
        """All adaptations, under the name by which `base.asks` looks for them."""
        return self.candidates if self.applied is None else [*self.candidates, self.applied]

    def check(self, net: nn.Module) -> None:
        for one in self.steps:
            one.check(net)
        if self.criterion in ("look", "statistics"):
            require_batch_norm(net, f"auto by {self.criterion}")
        elif self.criterion in ("aetta", "likelihood"):
            linear_head(net, f"auto by {self.criterion}", bias=self.criterion == "likelihood")

    def trainable(self, net: nn.Module) -> int:
        return max(one.trainable(net) for one in self.steps)

    def normalised_together(self, sizes: Sequence[int]) -> int:
        count = sum(sizes)
        if count < 2 * self.folds:
            return 2
        parts = [_even(count - len(range(fold, count, self.folds)), max(sizes)) for fold in range(self.folds)]
        return min(*(fewest_together(self.candidates, part) for part in parts), fewest_together(self.steps, sizes))

    def with_server(self, net: nn.Module, state: State, task: Task, data: Iterable[Batch]) -> "Auto":
        """Make the choice among candidates that have what the server measures, where they ask for it.

        Args:
            net: The network that lends its architecture, a workspace.
            state: The task's state of the personal model, which the server is about to send.
            task: The task.
            data: The server's labelled validation batches of the task.

        Returns:
            The adaptation.
        """
        given = with_server(self.steps, net, state, task, data)
        count = len(self.candidates)
        return replace(self, candidates=given[:count], applied=given[count] if self.applied else None)

    def __call__(self, net: nn.Module, state: State, task: Task, data: Iterable[Batch]) -> State:
        self.check(net)
        batches = [x for x, _ in data if len(x)]
        if sum(map(len, batches)) < 2 * self.folds:
            log.info("task %s: not adapted, as there are fewer than two images for each fold", task.name)
            return state
        gains = self._gains(net, state, task, batches)
        best = int(gains.mean(0).argmax())
        chosen = self.candidates[best] if gains[:, best].min() > self.margin else None
        log.info(
            "task %s: %s; gains of %s: %s",
            *(task.name, "not adapted" if chosen is None else f"adapted by {chosen}", self.criterion),
            ", ".join(f"{one} {gain:+.4f}" for one, gain in zip(self.candidates, gains.mean(0).tolist(), strict=True)),
        )
        return state if chosen is None else (self.applied or chosen)(net, state, task, data)

    def _gains(self, net: nn.Module, state: State, task: Task, batches: Sequence[Tensor]) -> Tensor:
        """The gain of each candidate over the given state `(folds, candidates)`."""
        images, size = torch.cat(list(batches)), max(map(len, batches))
        fold_of = torch.arange(len(images)) % self.folds
        judge = CRITERIA[self.criterion]
        found = []
        for fold in range(self.folds):
            own, others = (_cut(images[mine], size) for mine in (fold_of != fold, fold_of == fold))
            part: list[Batch] = [(x, None) for x in own]
            kept = judge(net, state, state, task, others)
            states = (one(net, state, task, part) for one in self.candidates)
            found.append([judge(net, state, adapted, task, others) - kept for adapted in states])
        return torch.tensor(found, dtype=torch.float64)


def _even(count: int, size: int) -> list[int]:
    """The sizes of the batches that `_cut` makes of so many images."""
    parts = math.ceil(count / size)
    return [(count + place) // parts for place in reversed(range(parts))]


def _cut(images: Tensor, size: int) -> list[Tensor]:
    """Batches of at most a size and as even as can be, so that none is of a single image."""
    return list(images.split(_even(len(images), size)))
