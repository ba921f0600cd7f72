"""The interface of every merge."""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from dua_lightning.errors import InputError
from dua_lightning.params import State
from dua_lightning.tasks import Expert, Prior, Task, UserModel

HEAD = "head"
"""The name of the part whose columns belong to tasks; a module around the network may have put its own before it."""
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
"""The buffers of batch-norm layers, by the last part of their names."""
VECTOR = re.compile(r"\bparametrizations\.\w+\.\d+\._u$")
"""The name of the vector u of `torch.nn.utils.parametrizations.spectral_norm`."""


@runtime_checkable
class Merge(Protocol):
    """chi(Psi, M) = M^: the server's experts and their priors become one personal model, without training.

    The batch-norm buffers of a merged model are those of each task's own expert; the step after the merge
    (`merge.statistics`) replaces them. The experts are never changed; a result may share tensors with them.

    Attributes:
        needs_prior: Whether the merge reads priors. Where it does not, none are measured.
        keeps_statistics: Whether the states of the result are whole models of their own, which the step after the
            merge leaves as they are.
    """

    @property
    def needs_prior(self) -> bool:
        """Whether the merge reads priors."""

    @property
    def keeps_statistics(self) -> bool:
        """Whether the step after the merge leaves the states as they are."""

    def __call__(self, experts: Sequence[Expert], priors: Sequence[Prior], start: State) -> UserModel:
        """Merge the experts into one personal model.

        Args:
            experts: M_1 .. M_t in the order in which they were learnt.
            priors: One for each expert; empty for a merge that needs none.
            start: The full state from which the training of the first task started.

        Returns:
            A full state for each expert's task, by the task's name.

        Raises:
            InputError: If the merge cannot use priors like these; it names the prior and what it needs.
        """


def head(state: Mapping[str, Tensor]) -> list[str]:
    """Name the weights of the head.

    Args:
        state: A full state of a network, or of a module around it that puts one prefix before all names.

    Returns:
        The names, in the order of the state.
    """
    paths = [name.split(".") for name in state]
    depth = 0
    while paths and all(len(path) > depth + 1 and path[depth] == paths[0][depth] != HEAD for path in paths):
        depth += 1
    return [".".join(path) for path in paths if path[depth] == HEAD]


def shared(state: Mapping[str, Tensor]) -> list[str]:
    """Name the weights that all tasks share, which are those that a merge is about.

    Args:
        state: A full state of a network, or of a module around it that puts one prefix before all names.

    Returns:
        Every name but those of the head and of the running statistics, in the order of the state.
    """
    own = set(head(state))
    return [
        name
        for name, tensor in state.items()
        if name not in own and name.rpartition(".")[2] not in STATISTICS and tensor.is_floating_point()
    ]


def check_head(tasks: Iterable[Task], state: Mapping[str, Tensor], merged: Iterable[str]) -> None:
    """Refuse to merge weights whose columns belong to single tasks.

    Args:
        tasks: The tasks.
        state: A full state of a network.
        merged: The names of the weights that would be merged.

    Raises:
        InputError: The tasks have columns of their own, and the head is among these weights, or the state has no head
            and one of them is large enough to be the last layer.
    """
    columns = {task.name: task.classes for task in tasks}
    if all(classes == other for classes, other in pairwise(columns.values())):
        return
    last = max(classes.stop for classes in columns.values())
    own = set(head(state))
    wrong = [name for name in merged if (name in own if own else _may_hold(state, name, last))]
    if wrong:
        raise InputError(
            f"the tasks {', '.join(columns)} have columns of their own in the last layer, and it would be merged with "
            f"all else ({wrong[-1]}); give the network its last layer as the attribute {HEAD}"
        )


def _may_hold(state: Mapping[str, Tensor], name: str, columns: int) -> bool:
    return name in state and state[name].dim() > 1 and max(state[name].shape) >= columns


def check_norms(state: Mapping[str, Tensor]) -> None:
    """Refuse to merge weights whose norm a state holds beside them.

    Args:
        state: A full state of a network.

    Raises:
        InputError: A layer has the vectors u and v of `spectral_norm`, in either of PyTorch's two forms. They belong to
            one weight, and the merged one would be divided by another number than its norm.
    """
    for name in state:
        if VECTOR.search(name) or (name.endswith("_u") and f"{name[:-1]}orig" in state):
            raise InputError(
                f"spectral_norm keeps {name} for a weight of one expert, and a merged weight has another norm; merge a "
                "network without spectral_norm, or keep each expert unmerged"
            )


def check_finite(merged: Tensor, experts: Sequence[Expert], name: str) -> None:
    """Refuse a merged weight that is not finite.

    Args:
        merged: The merged weight.
        experts: The experts.
        name: The weight's name.

    Raises:
        InputError: An entry is infinite or no number.
    """
    # The extremes are NaN where an entry is, and no mask of all entries has to be made.
    if merged.numel() and not all(extreme.isfinite() for extreme in torch.aminmax(merged)):
        bad = [expert.task.name for expert in experts if not expert.state[name].isfinite().all()]
        why = f"the expert of task {bad[0]} is not finite there" if bad else "the experts' numbers are too large"
        raise InputError(f"the merged {name} is not finite: {why}; train with a lower learning rate")
