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
from dua_lightning.merge.calibration import calibrated, temperature
from dua_lightning.params import State, batch_norms, device_of, eval_mode, inputs, task_logits
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
        calibrate: Whether the server divides each task's logits by the temperature that suits its validation labels.
            No prediction of the model changes; what a device computes from its probabilities does, such as entropies
            and the user's own shares of the classes.

    Raises:
        InputError: `AdaBN` or `calibrated` raises it.
    """

    images_at_once: AtOnce = "auto"
    calibrate: bool = False

    def __call__(
        self, net: nn.Module, experts: Sequence[Expert], model: UserModel, data: Sequence["ServerTask"]
    ) -> UserModel:
        normalises = bool(batch_norms(net))
        if not (normalises or self.calibrate):
            return model
        take = AdaBN(self.images_at_once)
        taken: dict[str, State] = {}
        for of_task in data:
            if (state := model.get(of_task.task.name)) is not None:
                if normalises:
                    state = state | _statistics(take(net, state, of_task.task, of_task.val_dataloader()))
                if self.calibrate:
                    state = _calibrated(net, state, of_task)
                taken[of_task.task.name] = state
        return taken


def _calibrated(net: nn.Module, state: State, of_task: "ServerTask") -> State:
    """The state whose probabilities suit the server's validation labels."""
    task, device = of_task.task, device_of(state)
    with eval_mode(net), torch.no_grad():
        pairs = [
            (task_logits(net, state, inputs(net, x, device), task.classes), task.columns(y))
            for x, y in of_task.val_dataloader()
            if y is not None
        ]
    logits, columns = (torch.cat(parts).cpu() for parts in zip(*pairs, strict=True))
    return calibrated(state, task, temperature(logits, columns))


def _statistics(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if name.rpartition(".")[2] in STATISTICS}


def _with(model: UserModel, statistics: State) -> UserModel:
    return {task: state | statistics for task, state in model.items()}
