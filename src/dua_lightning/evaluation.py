"""Accuracy of states of a network."""

import copy
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import torch
from torch import Tensor, nn

from dua_lightning.data.images import EVALUATION_BATCH, Kept
from dua_lightning.errors import InputError
from dua_lightning.nets import Network
from dua_lightning.nets.chain import chain_of, forward, linked
from dua_lightning.params import State, eval_mode, layout, modules_of, task_logits
from dua_lightning.tasks import Batch, Task

PASS_BYTES = 32 * 2**20
"""Of what a perceptron's layers hold in a pass."""


def accuracy(net: nn.Module, state: State, task: Task, data: Iterable[Batch]) -> float:
    """Percent of images whose class is the largest of the task's logits, in evaluation mode.

    Raises `InputError` for data without images or labels.
    """
    with eval_mode(net), torch.no_grad():
        return _alone(net, state, task, data)


def accuracy_per_task(net: nn.Module, states: Sequence[State], tasks: Sequence[Task], images: Kept) -> list[float]:
    """`accuracy` of each task's state on that task's images, for the first of the tasks that `images` holds.

    Where states differ in their heads alone, as those of a merged model do, the body runs once over the images of all
    tasks: a small network takes longer for a pass with each task's. Raises as `accuracy` does.
    """
    places = images.places[: len(tasks)]
    joint = _joint(net, states, tasks)
    if joint is None:
        data = images.batches()[: len(tasks)]
        return [accuracy(net, *one) for one in zip(states, tasks, data, strict=True)]
    x, y = images.rows(slice(0, places[-1].stop))
    with eval_mode(net), torch.no_grad():
        logits = _logits(net, joint, x)
    return [
        _percent(task, [(logits[place, task.classes], None if y is None else y[place])])
        for task, place in zip(tasks, places, strict=True)
    ]


def accuracies(
    net: nn.Module, states: Sequence[State], task: Task, data_per_user: Sequence[Iterable[Batch]]
) -> list[float]:
    """`accuracy` of each user's own state on that user's own data, in the order of the users.

    torch's threads share the users and not the layers. For small networks that is twice as fast as one user after
    another, where the threads wait for each other in every layer; for large ones it is the same. Memory is that of
    as many networks, and of a batch through each, as there are threads. Raises as `accuracy` does.
    """
    users = list(zip(states, data_per_user, strict=True))
    threads = torch.get_num_threads()
    workers = max(1, min(threads, len(users)))

    def evaluate(first: int) -> list[float]:
        own = copy.deepcopy(net).eval()
        with torch.no_grad():
            return [_alone(own, state, task, data) for state, data in users[first::workers]]

    try:
        # The number of threads belongs to the thread that sets it, and is what later ones start from.
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads // workers,)) as pool:
            shares = list(pool.map(evaluate, range(workers)))
    finally:
        torch.set_num_threads(threads)
    return [shares[user % workers][user // workers] for user in range(len(users))]


def _alone(net: nn.Module, state: State, task: Task, data: Iterable[Batch]) -> float:
    return _percent(task, ((_logits(net, state, x, task.classes), y) for x, y in data))


def _logits(net: nn.Module, state: State, x: Tensor, classes: slice = slice(None)) -> Tensor:
    """`task_logits` in evaluation mode, in passes of `EVALUATION_BATCH` images.

    A perceptron, whose layers hold little, takes as many images as fit into `PASS_BYTES`.
    """
    layers = chain_of(net, x)
    if layers is None:
        return torch.cat([task_logits(net, state, part, classes) for part in x.split(EVALUATION_BATCH)])
    modules = modules_of(net)
    links = linked(layers, modules, layout(net, modules), state, classes)
    size = max(EVALUATION_BATCH, PASS_BYTES // sum(len(link.weight) * x.itemsize for link in links))
    return torch.cat([forward(links, part)[-1] for part in x.split(size)])


def _percent(task: Task, results: Iterable[Batch]) -> float:
    """`results`: logits `(n, classes of the task)` and labels `(n,)` of each batch."""
    correct = total = 0
    for logits, y in results:
        if y is None:
            raise InputError(f"accuracy on task {task.name} needs labels, and these data have none")
        correct += int((logits.argmax(1) + task.classes.start == y).sum())
        total += len(y)
    if not total:
        raise InputError(f"accuracy on task {task.name} needs at least one image, and the data have none")
    return 100 * correct / total


def _joint(net: nn.Module, states: Sequence[State], tasks: Sequence[Task]) -> State | None:
    """One state with each task's columns of the head from its own; none for several bodies, or columns in common."""
    first = states[0]
    shared = [name for name in first if not name.startswith("head.")]
    if (
        type(net) is not Network
        or type(net.head) is not nn.Linear
        or any(state[name] is not first[name] for state in states[1:] for name in shared)
        or any(a.classes.stop > b.classes.start for a, b in pairwise(tasks))
    ):
        return None
    joint = {name: tensor if name in shared else tensor.clone() for name, tensor in first.items()}
    for name in first.keys() - shared:
        for state, task in zip(states[1:], tasks[1:], strict=True):
            joint[name][task.classes] = state[name][task.classes]
    return joint
