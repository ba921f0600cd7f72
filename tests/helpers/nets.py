"""Small networks in float64, one for each way in which a per-sample gradient or a state can go wrong."""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import settings
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dua_lightning.nets import Network, mlp
from dua_lightning.params import State
from dua_lightning.regularise import Regulariser
from dua_lightning.tasks import Batch, Expert, Task

CLASSES = 6
TASK = Task("middle", slice(2, 5))
"""Neither the first nor the last columns of the head, so that an offset left out is seen."""

law = settings(max_examples=60, deadline=None, derandomize=True, database=None)


@dataclass(frozen=True)
class Case:
    """A network's name, the shape of one input, and its builder; `build(seed)` gives other weights for other seeds."""

    name: str
    shape: tuple[int, ...]
    make: Callable[[int], nn.Module]

    def build(self, seed: int = 0) -> nn.Module:
        """In train mode, float64, with batch-norm layers that are far from the identity."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = self.make(seed).double()
            for layer in batch_norms(net):
                if layer.running_mean is not None:
                    layer.running_mean.normal_()
                    layer.running_var.uniform_(0.5, 2.0)
                if layer.affine:
                    nn.init.uniform_(layer.weight, 0.5, 2.0)
                    nn.init.normal_(layer.bias)
        return net.train()

    def expert(self, seed: int = 1, task: Task = TASK) -> Expert:
        """An expert whose weights differ from those of `build()`."""
        return Expert(task, self.build(seed).state_dict())

    def images(self, n: int, seed: int = 0) -> Tensor:
        return torch.randn(n, *self.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels(n: int, task: Task = TASK, seed: int = 0) -> Tensor:
    stream = torch.Generator().manual_seed(seed)
    return torch.randint(task.classes.start, task.classes.stop, (n,), generator=stream)


def batches(x: Tensor, y: Tensor | None, size: int) -> list[Batch]:
    """`x` and `y` cut into batches of `size`, the last one perhaps smaller."""
    return [(x[i : i + size], None if y is None else y[i : i + size]) for i in range(0, len(x), size)]


def batch_norms(net: nn.Module) -> list[_BatchNorm]:
    return [layer for layer in net.modules() if isinstance(layer, _BatchNorm)]


def close(actual: object, expected: object, tolerance: float = 1e-9) -> None:
    """Equal names, shapes and dtypes; equal numbers up to rounding."""
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance * 1e-3)


def equal(actual: object, expected: object) -> None:
    """Equal to the last bit."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def add_gradients_(regulariser: Regulariser, net: nn.Module) -> None:
    """The terms that the regulariser adds to the gradients of `net`, by the calls that Lightning makes."""
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    trainer: Any = SimpleNamespace(optimizers=[optimizer])
    regulariser.on_fit_start(trainer, net)
    regulariser.on_before_optimizer_step(trainer, net, optimizer)


@contextmanager
def untouched(net: nn.Module, state: State | None = None) -> Iterator[None]:
    """Fails where the block changes `state`, or a weight, a buffer, a gradient, a hook or a module's mode of `net`."""
    for i, module in enumerate(net.modules()):
        module.training = i % 2 == 0
    for p in net.parameters():
        p.grad = torch.full_like(p, 0.5)
    before = _modes(net), _hooks(net), _tensors(net), copy.deepcopy(state)
    yield
    assert (_modes(net), _hooks(net)) == before[:2]
    equal((_tensors(net), state), before[2:])


def _modes(net: nn.Module) -> list[bool]:
    return [module.training for module in net.modules()] + [p.requires_grad for p in net.parameters()]


def _hooks(net: nn.Module) -> list[int]:
    return [
        len(hooks)
        for m in net.modules()
        for hooks in (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks, m._backward_pre_hooks)
    ]


def _tensors(net: nn.Module) -> tuple[State, list[Tensor]]:
    return copy.deepcopy(net.state_dict()), [p.grad.clone() for p in net.parameters()]


class Twice(nn.Module):
    """One convolution used twice: its two gradients add up before any absolute value."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.conv(x).relu()).flatten(1)


class Tied(nn.Module):
    """Two layers that share one weight, each with a bias of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 5)
        self.second = nn.Linear(5, 5)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).tanh())


def _conv(_: int) -> Network:
    body = nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2), nn.ReLU(), nn.Conv2d(4, 3, 2), nn.MaxPool2d(2), nn.Flatten()
    )
    return Network(body, nn.Linear(3, CLASSES))


def _batch_norm(_: int) -> Network:
    body = nn.Sequential(
        nn.Conv2d(2, 3, 3),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(12, 5),
        nn.BatchNorm1d(5, affine=False),
    )
    return Network(body, nn.Linear(5, CLASSES))


def _inplace(_: int) -> Network:
    body = nn.Sequential(nn.Linear(5, 4), nn.ReLU(inplace=True), nn.Linear(4, 4), nn.ReLU(inplace=True))
    return Network(body, nn.Linear(4, CLASSES))


def _dropout(_: int) -> Network:
    body = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Dropout2d(0.5), nn.Flatten(), nn.ReLU(), nn.Dropout(0.5))
    return Network(body, nn.Linear(16, CLASSES))


MLP = Case("mlp", (2, 3), lambda seed: mlp((2, 3), CLASSES, seed, width=5))
BATCH_NORM = Case("batch norm", (2, 4, 4), _batch_norm)
DROPOUT = Case("dropout", (2, 4, 4), _dropout)
TIED = Case("a tied weight", (5,), lambda _: Network(Tied(), nn.Linear(5, CLASSES)))
PLAIN = Case("no head of its own", (5,), lambda _: nn.Sequential(nn.Linear(5, 4), nn.Sigmoid(), nn.Linear(4, CLASSES)))

CASES = [
    pytest.param(case, id=case.name)
    for case in (
        MLP,
        Case("conv", (2, 7, 7), _conv),
        BATCH_NORM,
        Case("in-place relu", (5,), _inplace),
        Case("used twice", (2, 3, 3), lambda _: Network(Twice(), nn.Linear(18, CLASSES))),
        TIED,
        PLAIN,
        DROPOUT,
    )
]


def rows(shape: tuple[int, ...], classes: int, seed: int, width: int = 8) -> Network:
    """A network that the command line can build, and that normalises one number of each picture."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), width), nn.BatchNorm1d(width), nn.ReLU())
        return Network(body, nn.Linear(width, classes))
