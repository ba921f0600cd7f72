"""The server: trains the experts, measures its own priors, merges. It never sees a user's data, only their priors."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

from torch import nn

from dua_lightning.data.server import ServerData, union
from dua_lightning.importance.base import Importance
from dua_lightning.merge.base import Merge
from dua_lightning.params import State
from dua_lightning.regularise.base import Regulariser
from dua_lightning.store.store import Recipe, Store
from dua_lightning.tasks import Expert, Prior, UserModel

if TYPE_CHECKING:
    from dua_lightning.training.training import Callbacks, Training


def train_experts(
    net: nn.Module,
    start: State,
    data: Sequence[ServerData],
    regulariser: Regulariser,
    training: "Training",
    store: Store,
    recipes: Sequence[Recipe],
    callbacks: "Callbacks" = (),
) -> tuple[Expert, ...]:
    """M_1 .. M_N, one after another: task 1 starts from `start`, each later one from the expert before it.

    An expert found in `store` under its recipe (one for each task) is taken from there, one that another process is
    training is waited for, and an unfinished training continues from its checkpoint. The regulariser measures the
    earlier experts only when a later one is really trained. `net` is a workspace and ends as the last expert. Raises
    `InputError` for an entry that cannot be used or kept.
    """
    experts: list[Expert] = []
    consolidated = 0

    def trained(recipe: Recipe) -> State:
        # Lightning takes seconds to load; where every expert is in the store, nothing needs it.
        from dua_lightning.training.training import fit

        nonlocal regulariser, consolidated
        for earlier in range(consolidated, len(experts)):
            net.load_state_dict(experts[earlier].state)
            regulariser = regulariser.consolidate(net, experts[earlier], data[earlier].predict_dataloader())
        consolidated = len(experts)
        return fit(net, data[len(experts)], regulariser, training, callbacks, store.partial(recipe)).state

    net.load_state_dict(start)
    for of_task, recipe in zip(data, recipes, strict=True):
        experts.append(Expert(of_task.task, store.once(recipe, partial(trained, recipe))))
        net.load_state_dict(experts[-1].state)
    return tuple(experts)


def train_joint(
    net: nn.Module,
    start: State,
    data: Sequence[ServerData],
    regulariser: Regulariser,
    training: "Training",
    store: Store,
    recipe: Recipe,
    callbacks: "Callbacks" = (),
) -> tuple[Expert, ...]:
    """One model trained on all tasks at once, as the expert of each of them."""
    (joint,) = train_experts(net, start, [union(data)], regulariser, training, store, [recipe], callbacks)
    return tuple(Expert(of_task.task, joint.state) for of_task in data)


def measure(
    importance: Importance,
    net: nn.Module,
    experts: Sequence[Expert],
    data: Sequence[ServerData],
    training_too: bool = False,
) -> list[Prior]:
    """Omega_t of each expert on the server's validation data of its task (IMM): one prior for all users.

    With `training_too` the training data count as well, as in the authors' release.
    """
    return [
        importance(net, expert, chain(of_task.predict_dataloader() if training_too else (), of_task.val_dataloader()))
        for expert, of_task in zip(experts, data, strict=True)
    ]


def merge_prefixes(
    merge: Merge, experts: Sequence[Expert], priors: Sequence[Prior], start: State
) -> Iterator[tuple[int, UserModel]]:
    """The personal model after each task.

    Args:
        merge: chi.
        experts: M_1 .. M_N.
        priors: One for each expert; empty for a merge that needs none.
        start: The state that the training of the first task started from.

    Yields:
        For each t = 1..N, t and the model that merges the first t experts.
    """
    for t in range(1, len(experts) + 1):
        yield t, merge(experts[:t], priors[:t], start)
