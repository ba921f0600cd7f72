"""Task vectors, the changes of the experts from their common start, which several merges add up.

The experts of `server.train_experts` are trained one from another: the vector of task t holds what the tasks before it
have changed as well, as far as training has not undone it. The published results of task arithmetic and TIES are of
experts that were all trained from the start itself. A sum of such vectors counts the first task most often.
"""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from dua_lightning.errors import InputError
from dua_lightning.merge.base import check_finite, check_head, check_norms, shared
from dua_lightning.params import State, lacks
from dua_lightning.tasks import Expert, UserModel


def task_vectors(experts: Sequence[Expert], start: State) -> Iterator[tuple[str, Tensor]]:
    """Compute tau_t = theta_t - theta_0 for each weight that all tasks share.

    Args:
        experts: M_1 .. M_N.
        start: The full state that the first of them was trained from, theta_0.

    Yields:
        The weight's name, and `(N, *shape of the weight)`, the change of each expert.

    Raises:
        InputError: Experts cannot be merged: they differ in name or shape from the start, or weights would be merged
            that belong to tasks, or are divided by a norm that their states hold.
    """
    names = shared(experts[0].state)
    check_head([expert.task for expert in experts], experts[0].state, names)
    check_norms(experts[0].state)
    for name in names:
        for whose, state in (("the start", start), *((f"the expert of task {e.task.name}", e.state) for e in experts)):
            if name not in state:
                raise InputError(f"{whose} {lacks(state, name)}")
            if state[name].shape != start[name].shape:
                shape, first = tuple(state[name].shape), tuple(start[name].shape)
                raise InputError(f"{whose} has {name} {shape}, the start {first}; merge experts of one network")
        yield name, torch.stack([expert.state[name] - start[name] for expert in experts])


def moved(experts: Sequence[Expert], start: State, steps: Iterable[tuple[str, Tensor]]) -> UserModel:
    """Make the personal model whose shared weights are the start's, moved by steps.

    Args:
        experts: M_1 .. M_N.
        start: The full state that the first of them was trained from.
        steps: The name of each shared weight, and what is added to it.

    Returns:
        A state for each task. All tasks share the merged weights; the rest shares the experts' tensors.

    Raises:
        InputError: A merged weight is not finite.
    """
    merged: State = {}
    for name, step in steps:
        merged[name] = start[name] + step
        check_finite(merged[name], experts, name)
    return {expert.task.name: expert.state | merged for expert in experts}


def check_scale(scale: float, merge: str) -> None:
    """Refuse a factor of task vectors that is no number.

    Args:
        scale: The factor.
        merge: The merge's name, for the message.

    Raises:
        InputError: It is not finite.
    """
    if not abs(scale) <= torch.finfo(torch.float32).max:
        raise InputError(f"the scale of {merge} is a finite number, got {scale}")
