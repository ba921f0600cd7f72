"""Batch-norm statistics of a merged model: the step after the merge.

The running mean and variance of a layer belong to the weights before it. Where these are merged, no expert's statistics
are right, and somebody must say which ones are taken.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import nn

from dua_lightning.adapt.adabn import AdaBN, AtOnce
from dua_lightning.merge.base import STATISTICS
from dua_lightning.params import State, batch_norms
from dua_lightning.tasks import Expert, UserModel

if TYPE_CHECKING:
    from dua_lightning.data.server import ServerTask


@runtime_checkable
class Statistics(Protocol):
    """Replaces the batch-norm statistics of a merged model. A network without batch norm is left as it is."""

    def __call__(
        self, net: nn.Module, experts: Sequence[Expert], model: UserModel, data: Sequence["ServerTask"]
    ) -> UserModel:
        """Give the merged model its statistics.

        Args:
            net: The architecture, a workspace.
            experts: The experts that were merged.
            model: The merged model; its statistics are those of each task's own expert.
            data: The server's data of at least the tasks of the experts, found by the task's name.

        Returns:
            The model with other statistics; all other tensors are shared with `model`.
        """


@dataclass(frozen=True)
class LastStatistics:
    """The statistics of the last expert serve all tasks, as in the authors' release."""

    def __call__(
        self, net: nn.Module, experts: Sequence[Expert], model: UserModel, data: Sequence["ServerTask"]
    ) -> UserModel:
        return _with(model, _statistics(experts[-1].state))


@dataclass(frozen=True)
class TaskStatistics:
    """Each task has the statistics of its own expert."""

    def __call__(
        self, net: nn.Module, experts: Sequence[Expert], model: UserModel, data: Sequence["ServerTask"]
    ) -> UserModel:
        return model


@dataclass(frozen=True)
class MeanStatistics:
    """The statistics of the pooled data of all experts, were they of equal size, serve all tasks.

    The pooled variance is the mean of the experts' variances plus the variance of their means.
    """

    def __call__(
        self, net: nn.Module, experts: Sequence[Expert], model: UserModel, data: Sequence["ServerTask"]
    ) -> UserModel:
        pooled = _statistics(experts[-1].state)
        for name in pooled:
            if name.endswith("running_mean"):
                variance = name.removesuffix("mean") + "var"
                means, variances = (torch.stack([e.state[n] for e in experts]) for n in (name, variance))
                pooled[name] = means.mean(0)
                pooled[variance] = variances.mean(0) + means.var(0, correction=0)
        return _with(model, pooled)


@dataclass(frozen=True)
class ServerStatistics:
    """The server takes each task's statistics anew, through the merged model, on its validation data of the task.

    Args:
        images_at_once: The largest number of images in a pass, as in `AdaBN`.

    Raises:
        InputError: `AdaBN` raises it.
    """

    images_at_once: AtOnce = "auto"

    def __call__(
        self, net: nn.Module, experts: Sequence[Expert], model: UserModel, data: Sequence["ServerTask"]
    ) -> UserModel:
        if not batch_norms(net):
            return model
        take = AdaBN(self.images_at_once)
        taken: dict[str, State] = {}
        for of_task in data:
            if (state := model.get(of_task.task.name)) is not None:
                own = take(net, state, of_task.task, of_task.val_dataloader())
                taken[of_task.task.name] = state | _statistics(own)
        return taken


def _statistics(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if name.rpartition(".")[2] in STATISTICS}


def _with(model: UserModel, statistics: State) -> UserModel:
    return {task: state | statistics for task, state in model.items()}
