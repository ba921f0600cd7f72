"""ONNX graphs of a task's network: as it is, with batch-norm statistics as inputs, and one that returns moments.

With the last two AdaBN needs neither PyTorch nor this package. All graphs take their weights from the model's one file
of tensors beside them.
"""

from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from dua_lightning.adapt import AlphaBN
from dua_lightning.params import batch_norms, loaded
from dua_lightning.personal.model import PersonalModel
from dua_lightning.personal.parity import examples, require_parity, require_same
from dua_lightning.store import tensorfile
from dua_lightning.tasks import Task

OPSET = 18
"""The version of ONNX's operators: the least that torch's exporter writes as they are."""
INPUT, LOGITS, MOMENTUM = "input", "logits", "momentum"
"""Names of inputs and outputs; batch-norm statistics have their names in the network's state dictionary."""
BATCH = "batch/"
"""The beginning of the names of a batch's own moments, before the names of the statistics that they are for."""


def write(model: PersonalModel, task: Task, path: Path, weights: Path, stored: Mapping[str, str]) -> None:
    """Write the network of a task as ONNX, and compare what onnxruntime computes with what PyTorch does.

    A network with batch normalisation has two more graphs, at `statistics_path` and `moments_path`. The first one takes
    `running_mean` and `running_var` of each layer as inputs, by default the model's. The second one takes them too, and
    returns the mean and the population variance of each layer's input over the batch. There a layer normalises by
    (1 - momentum) times the statistics given plus momentum times the batch's own: with the momentum 0, the default, by
    what is given; with 1, as AdaBN of all images at once.

    Args:
        model: The model.
        task: The task.
        path: The file.
        weights: The file of the model's tensors, in the same folder.
        stored: The names that the tensors of the task's state have in that file, by their names in the state.

    Raises:
        InputError: The file computes something else than the network.
    """
    import onnx_ir

    plain = _traced(model.net, model.shape).clone()
    _fill(plain, weights, stored)
    _select(plain.graph, task)
    onnx_ir.save(plain, path)
    x = examples(model.shape)
    require_parity(model.module(task.name), lambda some: _run(path, {INPUT: some})[LOGITS], x)
    if not batch_norms(model.net):
        return
    given = plain.clone()
    _open(given.graph)
    onnx_ir.save(given, statistics_path(path))
    onnx_ir.save(_moments(given.clone()), moments_path(path))
    # By the moments of three inputs alone rounding would grow from layer to layer; half of the model's hold it down.
    given_state = model.states[task.name]
    state = AlphaBN(alpha=0.5)(model.net, given_state, task, [(x, None)])
    found = _run(moments_path(path), {INPUT: x, MOMENTUM: torch.tensor([0.5])})
    for name, moment in found.items():
        own = name.removeprefix(BATCH)
        # Uses of one layer are pooled there.
        if f"{name}#2" not in found and "#" not in own:
            require_same((given_state[own] + moment) / 2, state[own], name)


def statistics_path(path: Path) -> Path:
    """Name the graph that takes batch-norm statistics; no other task's graph has such a name.

    Args:
        path: The task's graph.

    Returns:
        The file beside it.
    """
    return path.with_stem(f"{path.stem}+statistics")


def moments_path(path: Path) -> Path:
    """Name the graph that returns a batch's moments; no other task's graph has such a name.

    Args:
        path: The task's graph.

    Returns:
        The file beside it.
    """
    return path.with_stem(f"{path.stem}+moments")


@lru_cache(maxsize=1)
def _traced(net: nn.Module, shape: tuple[int, ...]) -> Any:
    """The graph of a network without its weights, so that it serves every task of every user of a run.

    It takes 15 s for MobileNetV2. No weight can have found its way into a constant: there are none while it is made.
    """
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass, RemoveUnusedNodesPass
    from onnxscript.optimizer import fold_constants

    # A tied weight is stored under its first name, and the exporter takes another one.
    first: dict[int, str] = {}
    names = {name: first.setdefault(id(tensor), name) for name, tensor in net.state_dict(keep_vars=True).items()}
    state = {name: tensor.cpu() for name, tensor in net.state_dict().items()}
    program = torch.onnx.export(
        loaded(net, state).eval(),
        (examples(shape),),
        dynamo=True,
        dynamic_shapes=({0: Dim("batch", min=1)},),
        input_names=[INPUT],
        output_names=["all"],
        opset_version=OPSET,
        optimize=False,
        verbose=False,
    )
    assert program is not None
    model = program.model
    for name, value in [*model.graph.initializers.items()]:
        if name in names:
            value.const_value, value.name = None, names[name]
    fold_constants(model)
    RemoveUnusedNodesPass()(model)
    # It names files of this machine.
    ClearMetadataAndDocStringPass()(model)
    return model


def _fill(model: Any, weights: Path, stored: Mapping[str, str]) -> None:
    """Give a graph the weights of a state, as places in the file beside it."""
    import onnx_ir

    places = tensorfile.places(weights)
    for name, value in model.graph.initializers.items():
        if value.const_value is None:
            start, stop = places[stored[name]]
            value.const_value = onnx_ir.ExternalTensor(
                weights.name, start, stop - start, value.dtype, shape=value.shape, name=name, base_dir=weights.parent
            )


def _select(graph: Any, task: Task) -> None:
    """Let the graph return the logits of a task's columns alone."""
    from onnx_ir.tape import Tape

    tape = Tape()
    start, stop, axis = (
        _constant(graph, name, torch.tensor([number]))
        for name, number in (("start", task.classes.start), ("stop", task.classes.stop), ("axis", 1))
    )
    (every,) = graph.outputs
    logits = tape.op("Slice", [every, start, stop, axis])
    logits.name, logits.dtype = LOGITS, every.dtype
    graph.extend(tape.nodes)
    graph.outputs[0] = logits


def _open(graph: Any) -> None:
    """Make inputs of the batch-norm statistics; the numbers that they have remain for whoever gives none."""
    statistics = {value.name: value for node in _batch_norms(graph) for value in node.inputs[3:5]}
    graph.inputs.extend(statistics.values())


def _moments(model: Any) -> Any:
    """Turn a graph that takes statistics into one that returns the moments of each batch-norm layer's input."""
    from onnx_ir.passes.common import RemoveUnusedNodesPass
    from onnx_ir.tape import Tape

    graph = model.graph
    nodes = _batch_norms(graph)
    momentum, one = (_constant(graph, name, torch.tensor([number])) for name, number in ((MOMENTUM, 0.0), ("one", 1.0)))
    graph.inputs.insert(1, momentum)
    graph.outputs.clear()
    uses: Counter[str] = Counter()
    for number, node in enumerate(nodes):
        x, tape = node.inputs[0], Tape()
        axes = _constant(graph, f"axes{number}", torch.tensor([i for i in range(len(x.shape)) if i != 1]))
        centre = tape.op("ReduceMean", [x, axes])
        apart = tape.op("Sub", [x, centre])
        mean = tape.op("Squeeze", [centre, axes])
        variance = tape.op("ReduceMean", [tape.op("Mul", [apart, apart]), axes], {"keepdims": 0})
        rest = tape.op("Sub", [one, momentum])
        for place, moment in ((3, mean), (4, variance)):
            given = node.inputs[place]
            uses[given.name] += 1
            # A layer that is used several times returns moments of each use.
            again = f"#{uses[given.name]}" if uses[given.name] > 1 else ""
            moment.name, moment.shape, moment.dtype = f"{BATCH}{given.name}{again}", given.shape, given.dtype
            graph.outputs.append(moment)
            parts = [tape.op("Mul", [rest, given]), tape.op("Mul", [momentum, moment])]
            node.replace_input_with(place, tape.op("Add", parts))
        graph.insert_before(node, tape.nodes)
    RemoveUnusedNodesPass()(model)
    return model


def _batch_norms(graph: Any) -> list[Any]:
    """The nodes of layers with running statistics, in the order of a pass."""
    return [node for node in graph if node.op_type == "BatchNormalization" and node.inputs[3].is_initializer()]


def _constant(graph: Any, name: str, tensor: Tensor) -> Any:
    import onnx_ir

    value = onnx_ir.Value(name=name, const_value=onnx_ir.tensor(tensor.numpy(), name=name))
    value.dtype, value.shape = value.const_value.dtype, value.const_value.shape
    graph.register_initializer(value)
    return value


def _run(path: Path, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The outputs of a graph by name."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # It warns of each input that has a default.
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    found = session.run(None, {name: tensor.numpy() for name, tensor in feeds.items()})
    return {output.name: torch.from_numpy(x) for output, x in zip(session.get_outputs(), found, strict=True)}
