"""ONNX graphs of a personal model, by onnxruntime against PyTorch."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dua_lightning.adapt import AdaBN
from dua_lightning.errors import InputError
from dua_lightning.params import State, clone
from dua_lightning.personal import PersonalModel, parity, save
from dua_lightning.tasks import Task

for package in ("onnx", "onnxscript"):
    pytest.importorskip(package)
onnxruntime = pytest.importorskip("onnxruntime")

from dua_lightning.personal import graphs  # noqa: E402

TASKS = (Task("garden", slice(0, 2)), Task("kitchen", slice(2, 5)))
SHAPE = (3, 8, 8)


class Several(nn.Module):
    """Layers of two and four dimensions, a tied weight, a buffer that is not saved, and a layer used twice at will."""

    def __init__(self, uses: int = 1) -> None:
        super().__init__()
        self.uses = uses
        self.conv, self.maps = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.rows = nn.BatchNorm1d(6)
        self.register_buffer("shift", torch.linspace(0, 1, 6), persistent=False)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maps(self.conv(x)).relu().mean((2, 3)) + self.shift
        x = self.second(self.first(x))
        for _ in range(self.uses):
            x = self.rows(x).relu()
        return self.head(x)


def drawn(net: nn.Module, seed: int) -> State:
    """A state of some weights and statistics."""
    stream = torch.Generator().manual_seed(seed)
    state = clone(net.state_dict())
    for name, tensor in state.items():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=stream) + (0.5 if "running_var" in name else -0.4))
    return {**state, "second.weight": state["first.weight"]} if "second.weight" in state else state


def model(net: nn.Module, user: str = "ann", seed: int = 0) -> PersonalModel:
    first = drawn(net, seed)
    own = {"maps.running_mean": first["maps.running_mean"] + 1} if "maps.running_mean" in first else {}
    return PersonalModel(
        user=user,
        row="mean-IMM",
        tasks=TASKS,
        categories=tuple("abcde"),
        shape=SHAPE,
        net=net,
        states={"garden": first, "kitchen": {**first, **own}},
        preprocessing=None,
        network={"name": "own", "_target_": "mine.net"},
        seed=1,
        settings={"phi": {"_target_": "dua_lightning.adapt.Unchanged"}},
        provenance={},
    )


def session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run(path: Path, **feeds: Any) -> dict[str, Tensor]:
    graph = session(path)
    found = graph.run(None, {name: np.asarray(x) for name, x in feeds.items()})
    return {output.name: torch.from_numpy(x) for output, x in zip(graph.get_outputs(), found, strict=True)}


@pytest.fixture
def x() -> Tensor:
    return 2 * torch.randn(12, *SHAPE, generator=torch.Generator().manual_seed(1)) + 1


@pytest.fixture(scope="module")
def made() -> PersonalModel:
    return model(Several())


@pytest.fixture(scope="module")
def folder(made: PersonalModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(made, tmp_path_factory.mktemp("models"), ("onnx",))


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
@pytest.mark.parametrize("kind", ["", "+statistics"])
def test_a_graph_gives_the_networks_logits_of_batches_of_any_size(
    made: PersonalModel, folder: Path, x: Tensor, task: Task, kind: str
) -> None:
    for n in (1, 2, 12):
        found = run(folder / f"{task.name}{kind}.onnx", input=x[:n])
        torch.testing.assert_close(found["logits"], made.module(task.name)(x[:n]), rtol=0, atol=1e-4)


def test_statistics_that_are_given_replace_the_models(made: PersonalModel, folder: Path, x: Tensor) -> None:
    graph = session(folder / "garden+statistics.onnx")
    names = {value.name for value in [*graph.get_inputs(), *graph.get_overridable_initializers()]} - {"input"}
    state = made.states["garden"]
    assert names == {name for name in state if "running" in name}
    other = {name: state[name] + 0.3 for name in names}
    moved = replace(made, states={"garden": {**state, **other}, "kitchen": state})
    found = run(folder / "garden+statistics.onnx", input=x, **other)["logits"]
    torch.testing.assert_close(found, moved.module("garden")(x), rtol=0, atol=1e-4)
    assert (found - made.module("garden")(x)).abs().max() > 1e-2


def by_loops(net: nn.Module, x: Tensor, momentum: float) -> dict[str, Tensor]:
    """The moments of each batch-norm layer's input, value by value, while layers normalise by the mixture."""
    found: dict[str, Tensor] = {}

    def note(name: str, layer: nn.BatchNorm2d) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Tensor]) -> None:
            columns = [[float(v) for image in args[0] for v in image[c].flatten()] for c in range(args[0].shape[1])]
            mean = [sum(column) / len(column) for column in columns]
            variance = [
                sum((v - m) ** 2 for v in column) / len(column) for column, m in zip(columns, mean, strict=True)
            ]
            for kind, moment in (("running_mean", mean), ("running_var", variance)):
                found[f"batch/{name}.{kind}"] = torch.tensor(moment)
                getattr(layer, kind).mul_(1 - momentum).add_(momentum * torch.tensor(moment))

        return hook

    for name, layer in net.named_modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.register_forward_pre_hook(note(name.removeprefix("net."), layer))
    with torch.no_grad():
        net(x)
    return found


@pytest.mark.parametrize("momentum", [None, 0.0, 0.25, 1.0])
def test_the_moments_are_those_of_every_batch_norm_layers_input(
    made: PersonalModel, folder: Path, x: Tensor, momentum: float | None
) -> None:
    given = {} if momentum is None else {"momentum": np.float32([momentum])}
    found = run(folder / "kitchen+moments.onnx", input=x, **given)
    expected = by_loops(made.module("kitchen"), x, momentum or 0.0)
    assert list(found) == list(expected)
    for name, moment in expected.items():
        torch.testing.assert_close(found[name], moment, rtol=1e-4, atol=1e-4)


def test_with_the_momentum_1_they_are_adabns_statistics(made: PersonalModel, folder: Path, x: Tensor) -> None:
    state = AdaBN()(made.net, made.states["garden"], TASKS[0], [(x[:7], None), (x[7:], None)])
    found = run(folder / "garden+moments.onnx", input=x, momentum=np.ones(1, np.float32))
    for name, moment in found.items():
        torch.testing.assert_close(moment, state[name.removeprefix("batch/")], rtol=1e-4, atol=1e-4)


def test_a_layer_that_is_used_twice_returns_the_moments_of_each_use(tmp_path: Path, x: Tensor) -> None:
    made = model(Several(uses=2))
    folder = save(made, tmp_path, ("onnx",))
    found = run(folder / "garden+moments.onnx", input=x, momentum=np.ones(1, np.float32))
    means, variances = (
        torch.stack([found[f"batch/rows.running_{kind}"], found[f"batch/rows.running_{kind}#2"]])
        for kind in ("mean", "var")
    )
    state = AdaBN()(made.net, made.states["garden"], TASKS[0], [(x, None)])
    torch.testing.assert_close(means.mean(0), state["rows.running_mean"], rtol=1e-4, atol=1e-4)
    pooled = variances.mean(0) + means.var(0, unbiased=False)
    torch.testing.assert_close(pooled, state["rows.running_var"], rtol=1e-4, atol=1e-4)


def test_no_graph_has_a_copy_of_a_weight(folder: Path) -> None:
    import onnx

    for path in folder.glob("*.onnx"):
        graph = onnx.load(path, load_external_data=False).graph
        own = [tensor for tensor in graph.initializer if tensor.data_location != onnx.TensorProto.EXTERNAL]
        assert max(np.prod(tensor.dims) for tensor in own) <= len("shift") + 1
        places = {entry.value for tensor in graph.initializer for entry in tensor.external_data[:1]}
        assert places == {"model.safetensors"}
        assert str(Path(__file__).parent) not in path.read_bytes().decode(errors="replace")


def test_users_of_one_network_share_a_trace_and_have_weights_of_their_own(
    tmp_path: Path, x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, traced, export = Several(), [], torch.onnx.export
    monkeypatch.setattr(torch.onnx, "export", lambda *given, **more: traced.append(1) or export(*given, **more))
    for seed, user in enumerate(("ann", "bob")):
        one = model(net, user, seed)
        found = run(save(one, tmp_path, ("onnx",)) / "garden.onnx", input=x)["logits"]
        torch.testing.assert_close(found, one.module("garden")(x), rtol=0, atol=1e-4)
    assert len(traced) == 1


def test_a_network_without_batch_normalisation_has_one_graph(tmp_path: Path) -> None:
    plain = nn.Sequential(nn.Flatten(), nn.Linear(192, 5))
    folder = save(model(plain), tmp_path, ("onnx",))
    assert sorted(path.name for path in folder.glob("*.onnx")) == ["garden.onnx", "kitchen.onnx"]


@pytest.mark.parametrize("what", ["the logits", "batch/"])
def test_a_graph_that_computes_something_else_is_refused(
    made: PersonalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    same = parity.require_same

    def strict(found: Tensor, expected: Tensor, of: str) -> None:
        same(found + of.startswith(what), expected, of)

    monkeypatch.setattr(parity, "require_same", strict)
    monkeypatch.setattr(graphs, "require_same", strict)
    with pytest.raises(InputError, match=f"{what}.* of the file and of the network differ by"):
        save(made, tmp_path, ("onnx",))
    assert list(tmp_path.iterdir()) == []
