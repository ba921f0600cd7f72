"""psi, chi, phi and evaluation run where the state is, and give what they give on the processor."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from dua_lightning.adapt import (
    ATP,
    EATA,
    SAR,
    T3A,
    TENT,
    AdaBN,
    AdaBNReleased,
    AdaBNS,
    AdaBNSReleased,
    Adapt,
    AlphaBN,
    Auto,
    BalancedBN,
    Chain,
    Finetune,
    InformationMaximisation,
    LabelShift,
    Unchanged,
)
from dua_lightning.adapt.cost import measured
from dua_lightning.evaluation import accuracy
from dua_lightning.importance import FIM, MAS, Importance, Uniform
from dua_lightning.merge import Mode
from dua_lightning.nets import Network
from dua_lightning.params import State
from dua_lightning.tasks import Batch, Expert, Task
from tests.helpers import device as fake
from tests.helpers.nets import BATCH_NORM, CASES, CLASSES, DROPOUT, TASK, Case, batches, close, labels, untouched

N = 7


@dataclass(frozen=True)
class Place:
    """A device, how states get there and back, and the type and the accuracy of its numbers."""

    entered: Callable[[], AbstractContextManager[object]]
    sent: Callable[[State], State]
    returned: Callable[[State], State]
    dtype: torch.dtype
    tolerance: float


def real(name: str, dtype: torch.dtype, tolerance: float) -> Place:
    def returned(state: State) -> State:
        assert all(tensor.device.type == name for tensor in state.values())
        return {key: tensor.cpu() for key, tensor in state.items()}

    return Place(nullcontext, lambda state: {key: t.to(name) for key, t in state.items()}, returned, dtype, tolerance)


PLACES = [
    pytest.param(Place(fake.Elsewhere, fake.sent, fake.returned, torch.float64, 1e-12), id="fake"),
    pytest.param(
        real("cuda", torch.float64, 1e-9),
        id="cuda",
        marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
    ),
    pytest.param(
        real("mps", torch.float32, 1e-3),
        id="mps",
        marks=pytest.mark.skipif(not torch.backends.mps.is_available(), reason="there is no MPS device"),
    ),
]
somewhere = pytest.mark.parametrize("place", PLACES)


def typed(state: State, place: Place) -> State:
    return {name: t.to(place.dtype) if t.is_floating_point() else t for name, t in state.items()}


def expert(case: Case, place: Place, seed: int = 1, task: Task = TASK) -> Expert:
    return Expert(task, typed(case.expert(seed).state, place))


def data(case: Case, place: Place) -> list[Batch]:
    """On the processor, as data are."""
    return batches(case.images(N).to(place.dtype), labels(N), 4)


def built(case: Case, place: Place) -> nn.Module:
    return case.build().to(place.dtype)


def _prelu(_: int) -> Network:
    return Network(nn.Sequential(nn.Linear(5, 4), nn.PReLU(4)), nn.Linear(4, CLASSES))


UNFIT = Case("a layer without a rule", (5,), _prelu)
IMPORTANCES = {
    "MAS": MAS(),
    "FIM": FIM(),
    "FIM of sampled labels": FIM("sampled"),
    "uniform": Uniform(),
    "MAS of batches": MAS("batch_mean"),
    "FIM of batches": FIM(estimator="batch_mean", floor=1e-8),
}


@somewhere
@pytest.mark.parametrize("name", IMPORTANCES)
@pytest.mark.parametrize("case", CASES)
def test_importances(place: Place, name: str, case: Case) -> None:
    compare_importance(place, IMPORTANCES[name], case)


@somewhere
def test_importances_by_torch_func(place: Place) -> None:
    compare_importance(place, MAS(), UNFIT)


def compare_importance(place: Place, importance: Importance, case: Case) -> None:
    given, net = expert(case, place), built(case, place)
    expected = importance(built(case, place), given, data(case, place))
    with place.entered(), untouched(net):
        found = importance(net, Expert(TASK, place.sent(given.state)), data(case, place))
    close(place.returned(found), expected, place.tolerance)


@somewhere
@pytest.mark.parametrize("rule", ["mean", "zero"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merges(place: Place, rule: str, dtype: torch.dtype) -> None:
    experts = [expert(BATCH_NORM, place, seed, Task(f"t{seed}", slice(0, 2))) for seed in range(3)]
    stream = torch.Generator().manual_seed(0)

    def drawn(theta: Tensor) -> Tensor:
        return torch.randn(theta.shape, generator=stream).relu().to(dtype)

    names = [name for name, p in BATCH_NORM.build().named_parameters() if name.startswith("body.")]
    priors = [{name: drawn(e.state[name]) for name in names} for e in experts]
    expected = Mode(rule)(experts, priors, {})
    with place.entered():
        away = [Expert(e.task, place.sent(e.state)) for e in experts]
        found = Mode(rule)(away, [place.sent(prior) for prior in priors], {})
    for task, state in found.items():
        close(place.returned(state), expected[task], max(place.tolerance, 1e-6))


ADAPTATIONS: dict[str, tuple[Adapt, Case]] = {
    "none": (Unchanged(), BATCH_NORM),
    "AdaBN": (AdaBN(), BATCH_NORM),
    "AdaBN in chunks": (AdaBN(images_at_once=2), BATCH_NORM),
    "AdaBN by batches": (AdaBN(statistics="batch"), BATCH_NORM),
    "AdaBN, running averages": (AdaBN(statistics="ema"), BATCH_NORM),
    "AdaBN, released": (AdaBNReleased(), BATCH_NORM),
    "alpha-BN": (AlphaBN(), BATCH_NORM),
    "balanced AdaBN in chunks, label shift": (Chain([BalancedBN(2, images_at_once=2), LabelShift()]), BATCH_NORM),
    "T3A": (T3A(), BATCH_NORM),
    "auto": (Auto([AdaBN(), T3A()], "aetta", margin=0), BATCH_NORM),
    "auto by statistics": (Auto([AdaBN()], margin=0), BATCH_NORM),
    "AdaBN-S": (AdaBNS(lr=0.1), BATCH_NORM),
    "AdaBN-S in chunks": (AdaBNS(lr=0.1, images_at_once=2), BATCH_NORM),
    "TENT": (TENT(lr=0.1), BATCH_NORM),
    "information maximisation": (InformationMaximisation(prior="estimated", parameters="body"), BATCH_NORM),
    "EATA": (EATA(3, lr=0.1, margin=0.9), BATCH_NORM),
    "SAR": (SAR(3, lr=0.1, margin=0.9, statistics="given"), BATCH_NORM),
    "ATP": (ATP({"body.1.weight": 1.0, "body.1.running_var": 0.5, "body.5.running_mean": 0.5}), BATCH_NORM),
    "fine-tuning": (Finetune(epochs=2, lr=0.1, reset_batch_norm=True), BATCH_NORM),
    "fine-tuning with dropout": (Finetune(epochs=2, lr=0.1), DROPOUT),
}


@somewhere
@pytest.mark.parametrize("name", ADAPTATIONS)
def test_adaptations(place: Place, name: str) -> None:
    adapt, case = ADAPTATIONS[name]
    compare_adaptation(place, adapt, adapt, case)


@somewhere
def test_the_adaptation_of_an_expert(place: Place) -> None:
    other = expert(BATCH_NORM, place, seed=3)
    with place.entered():
        away = AdaBNSReleased(lr=0.1).of(Expert(TASK, place.sent(other.state)))
    compare_adaptation(place, AdaBNSReleased(lr=0.1).of(other), away, BATCH_NORM)


def compare_adaptation(place: Place, adapt: Adapt, away: Adapt, case: Case) -> None:
    given, net = expert(case, place), built(case, place)
    expected, cost = measured(adapt, built(case, place), given.state, TASK, data(case, place))
    with place.entered(), untouched(net):
        found, cost_there = measured(away, net, place.sent(given.state), TASK, data(case, place))
    close(place.returned(found), expected, place.tolerance)
    assert (cost_there.trainable, cost_there.bytes) == (cost.trainable, cost.bytes)
    assert cost_there.seconds > 0


@somewhere
@pytest.mark.parametrize("case", CASES)
def test_evaluation(place: Place, case: Case) -> None:
    given, net = expert(case, place), built(case, place)
    expected = accuracy(built(case, place), given.state, TASK, data(case, place))
    with place.entered(), untouched(net):
        assert accuracy(net, place.sent(given.state), TASK, data(case, place)) == pytest.approx(expected)


class Offset(nn.Module):
    """Holds a buffer that no state has."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("offset", torch.full((5,), 0.5), persistent=False)
        self.layer = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x + self.offset)
        return y


@somewhere
def test_a_buffer_that_no_state_has_follows(place: Place) -> None:
    case = Case("a buffer", (5,), lambda _: Network(Offset(), nn.Linear(4, CLASSES)))
    compare_importance(place, MAS(), case)
    compare_adaptation(place, Finetune(epochs=1), Finetune(epochs=1), case)


@pytest.fixture
def elsewhere() -> Iterator[None]:
    with fake.Elsewhere():
        yield


@pytest.mark.usefixtures("elsewhere")
def test_the_fake_device_refuses_what_a_real_one_refuses() -> None:
    (there,) = fake.sent({"x": torch.ones(2)}).values()
    with pytest.raises(RuntimeError, match="two devices"):
        there + torch.ones(2)
    with pytest.raises(RuntimeError, match="two devices"):
        torch.where(torch.ones(2) > 0, there, there)
    assert fake.here(there + torch.tensor(1.0) + 1).tolist() == [3.0, 3.0]
    assert fake.here(there + torch.ones(2).to(there.device)).tolist() == [2.0, 2.0]
    assert there.cpu().tolist() == [1.0, 1.0]
    assert (there.is_cpu, there.device) == (False, fake.ELSEWHERE)
