"""A law for networks drawn at random whose layers are used several times: the statistics of all uses, however taken."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dua_lightning.adapt import AdaBN, AdaBNS
from dua_lightning.merge import ServerStatistics
from dua_lightning.params import State
from dua_lightning.tasks import Expert
from tests.helpers.nets import TASK, Case, batches, close, labels, law
from tests.reference.adabn_loop import adabn_of_uses

WIDTH = 6
Path = list[tuple[int, int]]
"""The linear layer and the batch-norm layer of each step of a pass."""


class Walk(nn.Module):
    """Three linear and three batch-norm layers, each used as often as the path says."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm1d(WIDTH) for _ in range(3))
        self.path = path

    def forward(self, x: Tensor) -> Tensor:
        for i, j in self.path:
            x = self.norms[j](self.linears[i](x)).tanh()
        return x


class OfTask:
    """The server's validation data of the task."""

    task = TASK

    def __init__(self, x: Tensor) -> None:
        self.images = x

    def val_dataloader(self) -> list[tuple[Tensor, None]]:
        return batches(self.images, None, 4)


paths = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=6)


def check(found: State, expected: list[tuple[Tensor, Tensor]]) -> None:
    for j, (mean, variance) in enumerate(expected):
        close(found[f"norms.{j}.running_mean"], mean, 1e-7)
        close(found[f"norms.{j}.running_var"], variance, 1e-7)


@law
@given(path=paths, size=st.integers(1, 12), n=st.integers(4, 11))
def test_the_statistics_are_those_of_all_uses_in_one_pass_and_in_several(path: Path, size: int, n: int) -> None:
    case = Case("walk", (WIDTH,), lambda _: Walk(path))
    net, state, x = case.build(1), case.build(1).state_dict(), 3 * case.images(n) + 2
    data = batches(x, labels(n), 3)
    expected = adabn_of_uses(case.build(1), path, x)
    once = AdaBN(None)(net, state, TASK, data)
    check(once, expected)
    check(AdaBN(size)(net, state, TASK, data), expected)
    check(AdaBN(statistics="batch")(net, state, TASK, [(x, None)]), expected)
    check(AdaBNS(0, images_at_once=size)(net, state, TASK, data), expected)
    check(ServerStatistics(size)(net, [Expert(TASK, state)], {TASK.name: state}, [OfTask(x)])[TASK.name], expected)
    # Adapting again changes nothing more.
    again = AdaBN(size)(net, once, TASK, data)
    close({k: v for k, v in again.items() if "running" in k}, {k: v for k, v in once.items() if "running" in k}, 1e-7)


def test_two_layers_that_share_their_statistics_are_one_layer() -> None:
    def make(_: int) -> Walk:
        net = Walk([(0, 0), (1, 1)])
        net.norms[1].running_mean, net.norms[1].running_var = net.norms[0].running_mean, net.norms[0].running_var
        return net

    case = Case("shared statistics", (WIDTH,), make)
    net, x = make(0).double(), 3 * case.images(9) + 2
    for name in ("running_mean", "running_var"):
        setattr(net.norms[1], name, getattr(net.norms[0], name))
    whole, chunks = (AdaBN(size)(net, net.state_dict(), TASK, [(x, None)]) for size in (None, 2))
    close({k: v for k, v in whole.items() if "running" in k}, {k: v for k, v in chunks.items() if "running" in k}, 1e-7)
    h = net.linears[0](x).detach()
    h = torch.stack([h, net.linears[1](net.norms[0].train()(h).tanh()).detach()])
    close(whole["norms.0.running_mean"], h.mean((0, 1)), 1e-7)
    close(whole["norms.1.running_mean"], h.mean((0, 1)), 1e-7)
