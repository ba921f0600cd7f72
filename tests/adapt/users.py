"""A small trained network with batch norm, and users whose images look different or whose classes are uneven."""

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor, nn

from dua_lightning.adapt import Adapt
from dua_lightning.evaluation import accuracy
from dua_lightning.nets import Network
from dua_lightning.params import State
from dua_lightning.tasks import Batch
from tests.helpers.nets import CLASSES, TASK, Case, batches

FEATURES, WIDTH, TASK_CLASSES = 6, 12, 3
EVEN = (1, 1, 1)
SKEWED = (20, 4, 1)


def _make(_: int) -> Network:
    body = nn.Sequential(
        nn.Linear(FEATURES, WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH)
    )
    return Network(nn.Sequential(body, nn.ReLU()), nn.Linear(WIDTH, CLASSES))


TRAINED = Case("trained", (FEATURES,), _make)


def images(n: int, classes: Sequence[float] = EVEN, shifted: bool = False, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows of overlapping classes, and their labels; shifted, each has another origin and scale."""
    stream = torch.Generator().manual_seed(seed)
    column = torch.multinomial(torch.tensor(classes, dtype=torch.float64), n, replacement=True, generator=stream)
    centres = 1.3 * torch.eye(TASK_CLASSES, FEATURES, dtype=torch.float64)
    x = centres[column] + torch.randn(n, FEATURES, generator=stream, dtype=torch.float64) * 0.7
    return (1.5 * x + 2 if shifted else x), column + TASK.classes.start


@cache
def trained() -> State:
    """The state after some steps on even classes, its statistics those of the training data."""
    net = TRAINED.build()
    x, y = images(600, seed=99)
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(80):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x)[:, TASK.classes], TASK.columns(y)).backward()
        optimizer.step()
    return {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}


def scores(adapt: Adapt, classes: Sequence[float], shifted: bool, n: int = 200, seed: int = 1) -> tuple[float, float]:
    """The accuracy on a user's other images before the adaptation and after it, on unlabelled ones."""
    net, state = TRAINED.build(), trained()
    x, _ = images(n, classes, shifted, seed)
    test: list[Batch] = [images(1000, classes, shifted, seed + 1000)]
    adapted = adapt(net, state, TASK, batches(x, None, 20))
    return accuracy(net, state, TASK, test), accuracy(net, adapted, TASK, test)
