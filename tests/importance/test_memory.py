"""The memory that a measurement holds, and for how long."""

import gc
import weakref
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from benchmarks.memory import reset_peak, status
from dua_lightning.importance import FIM, MAS, persample
from dua_lightning.importance.persample import mean_over_samples
from dua_lightning.nets import Network
from dua_lightning.tasks import Expert
from tests.helpers.nets import CASES, CLASSES, MLP, TASK, Case, batches, close, labels
from tests.importance.engine import fallbacks

MB = 10**6
N = 7


@pytest.fixture(autouse=True)
def _drawn_alike() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def wave(logits: Tensor, _: Tensor) -> Tensor:
    return logits.sin().sum(-1)


@pytest.mark.parametrize(
    ("images", "passes"),
    [(0, [1] * 7), (1, [1] * 7), (2, [2, 2, 1, 2]), (3, [3, 2, 2]), (5, [5, 2]), (10**6, [5, 2])],
)
def test_a_pass_holds_as_many_images_as_fit_and_at_least_one(images: int, passes: list[int]) -> None:
    net, seen = MLP.build(), []

    def counted(logits: Tensor, sides: Tensor) -> Tensor:
        seen.append(len(logits))
        return wave(logits, sides)

    mean_over_samples(net, MLP.expert(), [(MLP.images(2), None)], wave, 1)
    one = persample._plans[net].sample_bytes
    for memory in (max(1, images * one), images * one + one - 1):
        seen.clear()
        mean_over_samples(net, MLP.expert(), batches(MLP.images(N), None, 5), counted, 1, memory=memory)
        assert seen == passes


def test_larger_images_come_in_smaller_passes() -> None:
    def make(_: int) -> nn.Module:
        layers = [nn.Conv2d(1, 2, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        return Network(nn.Sequential(*layers), nn.Linear(2, CLASSES))

    passes: list[Tensor] = []
    net, shapes = Case("any shape", (), make).build(), [(1, 8, 8), (1, 16, 16), (1, 8, 8)]
    data = [(torch.randn(6, *shape, dtype=torch.float64), None) for shape in shapes]
    expert = Expert(TASK, net.state_dict())
    mean_over_samples(net, expert, data[:1], wave, 1)
    net.register_forward_pre_hook(lambda _, inputs: passes.append(inputs[0]))
    mean_over_samples(net, expert, data, wave, 1, memory=3 * persample._plans[net].sample_bytes)
    assert max(len(x) for x in passes if x.shape[1:] == shapes[0]) == 3
    # The first two images may be seen together by the comparison.
    assert [len(x) for x in passes if x.shape[1:] == shapes[1]][-6:] == [1] * 6


def test_an_image_is_held_with_the_inputs_of_all_layers() -> None:
    net = MLP.build()
    MAS()(net, MLP.expert(), [(MLP.images(2), None)])
    inputs, outputs = 8 * (6 + 5), 8 * (5 + 5 + CLASSES)
    assert inputs <= persample._plans[net].sample_bytes <= 2 * (inputs + outputs)


def peak(net: nn.Module, x: Tensor, power: int, **memory: int) -> float:
    """The rise of the process's memory while `net` is measured by its rules."""
    expert = Expert(TASK, net.state_dict())
    with fallbacks() as lines:
        before = reset_peak()
        mean_over_samples(net, expert, [(x, None)], wave, power, **memory)
        after = status("VmHWM")
    assert not lines
    if before != before:
        pytest.skip("this system does not say how much memory a process takes")
    return after - before


LARGE = {
    "linear": (lambda: nn.Linear(2000, 2000), (200, 2000)),
    "linear on sequences": (lambda: nn.Sequential(nn.Linear(1200, 1200), nn.Flatten()), (70, 2, 1200)),
    "conv by the compiled loop": (lambda: nn.Sequential(nn.Conv2d(512, 512, 3), nn.Flatten()), (40, 512, 4, 4)),
    "conv by the library": (lambda: nn.Sequential(nn.Conv1d(512, 512, 3, groups=2), nn.Flatten()), (240, 512, 5)),
}


@pytest.mark.parametrize("power", [1, 2], ids=["absolute", "squared"])
@pytest.mark.parametrize("name", LARGE)
def test_the_gradients_of_many_samples_are_never_held_at_once(name: str, power: int) -> None:
    make, shape = LARGE[name]
    body = make()
    x = torch.randn(shape)
    net = Network(body, nn.Linear(body(x[:1]).shape[1], CLASSES))
    weights = sum(p.nbytes for p in body.parameters())
    assert weights * len(x) > 350 * MB
    assert peak(net, x, power) < 100 * MB


def test_the_activations_of_many_images_are_never_held_at_once() -> None:
    layers = [layer for _ in range(3) for layer in (nn.Conv2d(8, 8, 3, padding=1), nn.Tanh())]
    net = Network(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(8, CLASSES))
    x = torch.randn(80, 8, 64, 64)
    assert 6 * x.nbytes > 60 * MB
    # The library's first convolution takes memory for good.
    peak(net, x[:2], 1)
    assert peak(net, x, 1, memory=8 * MB) < 40 * MB


@pytest.fixture
def no_collection() -> Iterator[None]:
    """Only what no cycle holds is freed."""
    gc.disable()
    yield
    gc.enable()


class WithWaste(nn.Module):
    """Computes what the output does not depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.waste = nn.Linear(3, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x).tanh()
        self.waste(x).tanh()
        return x


WASTE = Case("waste", (3,), lambda _: Network(WithWaste(), nn.Linear(4, CLASSES)))


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("case", [*CASES, pytest.param(WASTE, id=WASTE.name)])
def test_all_is_freed_with_the_result(case: Case) -> None:
    net, expert, data = case.build(), case.expert(), batches(case.images(N), labels(N), 3)
    before = tensors()
    results = [weakref.ref(o) for importance in (MAS(), FIM()) for o in importance(net, expert, data).values()]
    assert all(result() is None for result in results)
    assert tensors() == before


def tensors() -> int:
    return sum(issubclass(type(o), Tensor) for o in gc.get_objects())


@pytest.mark.usefixtures("no_collection")
def test_a_network_that_was_measured_is_freed() -> None:
    net = MLP.build()
    MAS()(net, MLP.expert(), [(MLP.images(2), None)])
    gone = weakref.ref(net)
    del net
    assert gone() is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("importance", [MAS(), FIM()], ids=["mas", "fim"])
def test_networks_of_half_precision_have_sums_of_float32(importance: MAS | FIM, dtype: torch.dtype) -> None:
    def make(_: int) -> nn.Module:
        layers = [nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(64, 16), nn.LayerNorm(16)]
        return Network(nn.Sequential(*layers, nn.Tanh(), nn.Linear(16, 8)), nn.Linear(8, CLASSES))

    case = Case("half", (2, 6, 6), make)
    net, x, y = case.build().to(dtype), case.images(20).to(dtype), labels(20)
    with fallbacks() as lines:
        omega = importance(net, Expert(TASK, net.state_dict()), batches(x, y, 7))
    assert not lines
    net, x = net.double(), x.double()
    expected = importance(net, Expert(TASK, net.state_dict()), [(x, y)])
    for name, o in omega.items():
        assert o.dtype == torch.float32
        assert float((o - expected[name]).abs().sum()) < 0.03 * float(expected[name].sum())


@pytest.mark.parametrize("layer", [nn.Identity, nn.PReLU], ids=["rules", "fallback"])
@pytest.mark.parametrize("power", [1, 2], ids=["absolute", "squared"])
def test_a_sum_over_many_samples_sees_each_of_them(power: int, layer: type[nn.Module]) -> None:
    net = Network(nn.Sequential(nn.Linear(3, 2), layer()), nn.Linear(2, CLASSES)).to(torch.bfloat16)
    # Numbers that bfloat16 has; a sum of 256 equal ones grows no more in it.
    for p in net.parameters():
        nn.init.constant_(p, 0.25)
    expert, x = Expert(TASK, net.state_dict()), torch.tensor([[1.0, 0.5, 0.25]], dtype=torch.bfloat16)

    def total(logits: Tensor, _: Tensor) -> Tensor:
        return logits.sum(-1)

    once = mean_over_samples(net, expert, [(x, None)], total, power)
    assert all(o.dtype == torch.float32 for o in once.values())
    close(mean_over_samples(net, expert, [(x, None)] * 300, total, power), once, 1e-6)
    close(mean_over_samples(net, expert, [(x.expand(300, -1), None)], total, power), once, 1e-6)


def test_small_gradients_of_half_precision_do_not_vanish_when_squared() -> None:
    body = nn.Sequential(nn.Linear(3, 2), nn.Tanh())
    net = Network(body, nn.Linear(2, CLASSES)).to(torch.float16)
    with torch.no_grad():
        net.head.weight.mul_(2e-4)
    expert, x = Expert(TASK, net.state_dict()), torch.randn(4, 3, dtype=torch.float16)
    omega = mean_over_samples(net, expert, [(x, None)], wave, 2)
    expected = mean_over_samples(net.double(), Expert(TASK, net.state_dict()), [(x.double(), None)], wave, 2)
    for name, o in omega.items():
        assert float((o - expected[name]).abs().sum()) < 0.03 * float(expected[name].sum())


@pytest.mark.parametrize("own", ["tf32", "ieee"])
def test_the_callers_own_precision_of_convolutions_is_there_afterwards(own: str) -> None:
    convolutions = torch.backends.cudnn.conv
    before, seen = convolutions.fp32_precision, []

    def scalar(logits: Tensor, _: Tensor) -> Tensor:
        seen.append(convolutions.fp32_precision)
        return logits.square().sum(-1)

    try:
        convolutions.fp32_precision = own
        mean_over_samples(MLP.build(), MLP.expert(), batches(MLP.images(N), None, 5), scalar, 1)
        assert (set(seen), convolutions.fp32_precision) == ({"ieee"}, own)
    finally:
        convolutions.fp32_precision = before
