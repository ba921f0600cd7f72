"""The head of a state, found by its names alone, and the weights that a merge must leave to each task."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm
from torch.nn.utils.parametrizations import weight_norm
from torch.optim.swa_utils import AveragedModel

from dua_lightning.errors import InputError
from dua_lightning.importance import MAS, Uniform
from dua_lightning.merge import Mean, Mode
from dua_lightning.merge.base import head, shared
from dua_lightning.nets import Network
from dua_lightning.params import body_names
from dua_lightning.tasks import Expert, Task
from tests.helpers.nets import CLASSES, MLP, PLAIN, equal

OWN = [Task("a", slice(0, 2)), Task("b", slice(2, 6))]
SAME = [Task("a", slice(0, 6)), Task("b", slice(0, 6))]
MERGES = pytest.mark.parametrize("merge", [Mode(), Mean()], ids=["mode", "mean"])


class Named(nn.Module):
    """A network whose last layer has a name of the user's."""

    def __init__(self, last: str) -> None:
        super().__init__()
        self.body, self.last = nn.Linear(3, 4), last
        self.add_module(last, nn.Linear(4, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.get_submodule(self.last)(self.body(x).tanh())


class Table(nn.Module):
    """A network whose head is a single parameter, with its columns last."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(3, 4), nn.Parameter(torch.rand(4, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).tanh() @ self.head


class Around(nn.Module):
    """A module around a network that gives its logits and does not name its head."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Named("head")

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def experts(build: Callable[[], nn.Module], tasks: list[Task]) -> list[Expert]:
    found = []
    for seed, task in enumerate(tasks):
        torch.manual_seed(seed)
        found.append(Expert(task, build().state_dict()))
    return found


def merged(merge: Mode | Mean, build: Callable[[], nn.Module], tasks: list[Task]) -> list[dict[str, Tensor]]:
    known, x = experts(build, tasks), torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    priors = [MAS()(build(), expert, [(x, None)]) for expert in known]
    model = merge(known, priors, {})
    return [model[task.name] for task in tasks]


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "net._orig_mod."])
def test_a_head_is_found_behind_the_prefix_of_all_names(prefix: str) -> None:
    net = MLP.build()
    state = {f"{prefix}{name}": tensor for name, tensor in net.state_dict().items()}
    assert head(state) == [f"{prefix}head.weight", f"{prefix}head.bias"]
    assert shared(state) == [f"{prefix}{name}" for name in body_names(net)]
    assert head({"head.weight": torch.ones(1), "head.bias": torch.ones(1)}) == ["head.weight", "head.bias"]
    assert head({"body.head.weight": torch.ones(1), "fc.weight": torch.ones(1)}) == []


@MERGES
@pytest.mark.parametrize("build", [lambda: Named("fc"), PLAIN.build], ids=["fc", "a sequence"])
def test_a_last_layer_of_another_name_is_not_merged(merge: Mode | Mean, build: Callable[[], nn.Module]) -> None:
    known = experts(build, OWN)
    priors = [Uniform()(build(), expert, []) for expert in known]
    with pytest.raises(InputError, match=r"tasks a, b have columns of their own .*attribute head"):
        merge(known, priors, {})


@MERGES
def test_the_head_of_a_network_inside_another_is_each_tasks_own_or_refused(merge: Mode | Mean) -> None:
    if isinstance(merge, Mode):
        with pytest.raises(InputError, match=r"net\.head\.bias.*attribute head"):
            merged(merge, Around, OWN)
        return
    states = merged(merge, Around, OWN)
    equal([state["net.head.weight"] for state in states], [e.state["net.head.weight"] for e in experts(Around, OWN)])


@MERGES
def test_tasks_that_share_all_columns_share_the_last_layer_too(merge: Mode | Mean) -> None:
    a, b = merged(merge, lambda: Named("fc"), SAME)
    equal(a["fc.weight"], b["fc.weight"])
    assert not torch.equal(a["fc.weight"], experts(lambda: Named("fc"), SAME)[0].state["fc.weight"])


@MERGES
def test_a_head_may_be_a_single_parameter(merge: Mode | Mean) -> None:
    states = merged(merge, Table, OWN)
    equal([state["head"] for state in states], [expert.state["head"] for expert in experts(Table, OWN)])
    equal(states[0]["body.weight"], states[1]["body.weight"])


@pytest.mark.parametrize("wrap", [nn.DataParallel, AveragedModel])
def test_a_wrapper_that_hides_the_head_is_refused(wrap: Callable[[nn.Module], nn.Module]) -> None:
    net = wrap(Named("head"))
    for psi in (MAS(), MAS("batch_mean"), Uniform()):
        with pytest.raises(InputError, match=f"^{wrap.__name__} hides the head .* is its .module"):
            psi(net, Expert(OWN[0], net.state_dict()), [(torch.randn(2, 3), None)])


def test_a_compiled_network_keeps_its_names_and_its_head() -> None:
    def build() -> nn.Module:
        return torch.compile(Named("head"), backend="eager")

    for merge in (Mode(), Mean()):
        states = merged(merge, build, OWN)
        known = experts(build, OWN)
        equal([state["_orig_mod.head.weight"] for state in states], [e.state["_orig_mod.head.weight"] for e in known])
        equal(states[0]["_orig_mod.body.weight"], states[1]["_orig_mod.body.weight"])


@MERGES
@pytest.mark.parametrize(
    "norm",
    [spectral_norm, parametrizations.spectral_norm, lambda m: parametrizations.spectral_norm(weight_norm(m))],
    ids=["hook", "parametrization", "second parametrization"],
)
def test_weights_whose_norm_the_states_hold_are_not_merged(
    merge: Mode | Mean, norm: Callable[[nn.Module], nn.Module]
) -> None:
    def build(norm: Callable[[nn.Module], nn.Module]) -> nn.Module:
        return Network(norm(nn.Linear(3, 4)), nn.Linear(4, CLASSES))

    with pytest.raises(InputError, match=r"spectral_norm keeps body\..*_u for a weight of one expert"):
        merged(merge, lambda: build(norm), OWN)
    # A norm that is a weight of its own is merged as one.
    states = merged(merge, lambda: build(weight_norm), OWN)
    norms = [state["body.parametrizations.weight.original0"] for state in states]
    equal(norms[0], norms[1])
