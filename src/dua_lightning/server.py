"""The server: trains the experts, measures its own priors, merges. It never sees a user's data, only their `Params`."""

from collections.abc import Iterator, Sequence

from torch import nn

from dua_lightning.data.server import ServerData, union
from dua_lightning.importance.base import Importance
from dua_lightning.merge.base import Merge
from dua_lightning.methods.base import Regulariser
from dua_lightning.params import Params, State
from dua_lightning.store import ExpertStore
from dua_lightning.tasks import Expert, UserModel
from dua_lightning.training import Callbacks, Training, fit


def train_experts(
    net: nn.Module,
    start: State,
    data: Sequence[ServerData],
    regulariser: Regulariser,
    training: Training,
    store: ExpertStore,
    keys: Sequence[str],
    callbacks: Callbacks = (),
) -> tuple[Expert, ...]:
    """M_1 .. M_N, one after another: task 1 starts from `start`, each later one from the expert before it.

    An expert found in `store` under its key (one for each task) is taken from there; the regulariser measures the
    earlier experts only when a later one is really trained. `net` is a workspace and ends as the last expert.
    """
    experts: list[Expert] = []
    consolidated = 0
    net.load_state_dict(start)
    for of_task, key in zip(data, keys, strict=True):
        expert = store.get(key, of_task.task)
        if expert is None:
            for earlier in range(consolidated, len(experts)):
                net.load_state_dict(experts[earlier].state)
                regulariser = regulariser.consolidate(net, experts[earlier], data[earlier].predict_dataloader())
            consolidated = len(experts)
            expert = fit(net, of_task, regulariser, training, callbacks)
            store.put(key, expert)
        net.load_state_dict(expert.state)
        experts.append(expert)
    return tuple(experts)


def train_joint(
    net: nn.Module,
    start: State,
    data: Sequence[ServerData],
    regulariser: Regulariser,
    training: Training,
    store: ExpertStore,
    key: str,
    callbacks: Callbacks = (),
) -> tuple[Expert, ...]:
    """One model trained on all tasks at once, as the expert of each of them."""
    (joint,) = train_experts(net, start, [union(data)], regulariser, training, store, [key], callbacks)
    return tuple(Expert(of_task.task, joint.state) for of_task in data)


def measure(
    importance: Importance, net: nn.Module, experts: Sequence[Expert], data: Sequence[ServerData]
) -> list[Params]:
    """Omega_t of each expert on the server's validation data of its task (IMM): one prior for all users."""
    return [importance(net, expert, of_task.val_dataloader()) for expert, of_task in zip(experts, data, strict=True)]


def merge_prefixes(
    merge: Merge, experts: Sequence[Expert], priors: Sequence[Params]
) -> Iterator[tuple[int, UserModel]]:
    """For each t = 1..N, t and the personal model of the first t tasks. `priors` may be empty for a merge without."""
    for t in range(1, len(experts) + 1):
        yield t, merge(experts[:t], priors[:t])
