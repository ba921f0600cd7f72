"""The server trains the experts, measures its own priors and merges. It sees no user's data, only their priors."""

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain

from torch import nn

from dua_lightning.data.server import ServerTask
from dua_lightning.importance.base import Importance
from dua_lightning.merge.base import Merge
from dua_lightning.params import State
from dua_lightning.progress import stage
from dua_lightning.regularise.base import Regulariser
from dua_lightning.store.store import Recipe, Store
from dua_lightning.tasks import Expert, Prior, UserModel
from dua_lightning.training import Fitted, Training, fit


def train_experts(
    net: nn.Module,
    start: State,
    data: Sequence[ServerTask],
    regulariser: Regulariser,
    training: Training,
    store: Store,
    recipes: Sequence[Recipe],
    trained: Callable[[Fitted], None] = lambda fitted: None,
) -> tuple[Expert, ...]:
    """Train the experts M_1 .. M_N one after another, each from the weights of the one before it.

    An expert found in `store` is taken from there, and one that another process is training is waited for. The
    regulariser measures the earlier experts only when a later one is really trained.

    Args:
        net: The network, a workspace that ends as the last expert.
        start: The weights that the first task starts from.
        data: The tasks in the order of training.
        regulariser: The callback that helps to remember earlier tasks, as it is before the first one; a copy is used.
        training: The settings of every training: Trainer, optimizer, schedule and callbacks.
        store: The store that keeps the experts.
        recipes: One for each task: everything that the expert's bits depend on.
        trained: A function that is given each expert that was not in the store, as soon as it is there.

    Returns:
        The experts in the order of training.

    Raises:
        InputError: For an entry of the store that cannot be used or kept.
    """
    regulariser = copy.deepcopy(regulariser)
    experts: list[Expert] = []
    consolidated = 0

    def train(recipe: Recipe) -> State:
        nonlocal consolidated
        for place in range(consolidated, len(experts)):
            net.load_state_dict(experts[place].state)
            module = training.module(net, data[place]).to(training.device)
            with stage(f"remembering task {data[place].task.name}"):
                regulariser.consolidate(module, data[place].task, data[place].predict_dataloader())
        consolidated = len(experts)
        fitted = fit(net, data[len(experts)], regulariser, training, store.partial(recipe))
        trained(fitted)
        return fitted.expert.state

    net.load_state_dict(start)
    for of_task, recipe in zip(data, recipes, strict=True):
        experts.append(Expert(of_task.task, store.once(recipe, partial(train, recipe))))
        net.load_state_dict(experts[-1].state)
    return tuple(experts)


def measure(
    importance: Importance,
    net: nn.Module,
    experts: Sequence[Expert],
    data: Sequence[ServerTask],
    training_too: bool = False,
) -> list[Prior]:
    """Measure the prior Omega_t of each expert on the server's validation data of its task (IMM), one for all users.

    Args:
        importance: psi.
        net: The network, a workspace.
        experts: M_1 .. M_N.
        data: The server's data of each expert's task.
        training_too: Whether the training data count as well, as in the authors' release.

    Returns:
        A prior for each expert.
    """
    return [
        importance(net, expert, chain(of_task.predict_dataloader() if training_too else (), of_task.val_dataloader()))
        for expert, of_task in zip(experts, data, strict=True)
    ]


def merge_prefixes(
    merge: Merge, experts: Sequence[Expert], priors: Sequence[Prior], start: State
) -> Iterator[tuple[int, UserModel]]:
    """Merge the first t experts for every t, into the personal model after each task.

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
