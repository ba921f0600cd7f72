"""Adaptation by one step, with a rate for each tensor that the server learns on simulated users.

[Bao2023] W. Bao, T. Wei, H. Wang, J. He. Adaptive test-time personalization for federated learning. NeurIPS 2023.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dua_lightning.adapt.finetune import Objective, cross_entropy
from dua_lightning.adapt.finite import require_finite
from dua_lightning.adapt.without_labels import entropies
from dua_lightning.errors import InputError
from dua_lightning.params import State, batch_norms, clone, device_of, inputs, loaded, norm_affine
from dua_lightning.progress import stage
from dua_lightning.tasks import Batch, Task, refusing_batch

Rates = Mapping[str, float]
"""The rate of each gamma, beta, running mean and running variance, by its name in the state; of others it is 0."""


@dataclass(frozen=True)
class ATP:
    """Take one step from the given model, by a rate for each tensor of the normalisation layers: ATP of [Bao2023].

    A gamma or beta goes against the gradient of the mean entropy of all of the user's predictions, by its rate. A
    running mean or variance goes towards that of all of the user's images, by its rate as the share of the way: at 1
    it is theirs, at 0 the server's. Everything is measured in evaluation mode on the given model, so that a layer's
    moments are taken through the layers before it as they were given, unlike those of `AdaBN`. A variance stays at
    least 0.

    The server learns the rates by `learn_rates` on simulated users; the authors adapt the other weights too.

    Args:
        rates: The rates, or the file in which `save_rates` has put them.

    Raises:
        InputError: There are no rates, the file's content is not that of its name, a rate is of a tensor that the
            network does not have, the data have no images, or the step makes numbers that are not finite.
    """

    rates: str | Path | Rates | None = None
    needs_labels: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if wrong := [name for name, rate in self._known.items() if not math.isfinite(rate)]:
            raise InputError(f"the rates of ATP are finite numbers, got {self._known[wrong[0]]} for {wrong[0]}")

    @cached_property
    def _known(self) -> dict[str, float]:
        return _read(Path(self.rates)) if isinstance(self.rates, str | Path) else dict(self.rates or {})

    def check(self, net: nn.Module) -> None:
        if not self._known:
            raise InputError("ATP steps by rates, and there are none; learn them by `dua rates`, and give their file")
        if foreign := [name for name in self._known if name not in _tensors(net)]:
            raise InputError(
                f"ATP has a rate for {foreign[0]}, and no normalisation layer of this {type(net).__name__} has it; "
                "learn the rates on this network"
            )

    def trainable(self, net: nn.Module) -> int:
        return sum(p.numel() for name, p in norm_affine(net).items() if name in self._known)

    def __call__(self, net: nn.Module, state: State, task: Task, data: Iterable[Batch]) -> State:
        self.check(net)
        tuned = loaded(net, state)
        _step(tuned, self._known, _directions(tuned, task, data))
        final = clone(tuned.state_dict())
        require_finite(final, state, data, f"ATP on task {task.name}")
        return final


def learn_rates(
    net: nn.Module,
    clients: Sequence[tuple[State, Task, Iterable[Batch]]],
    rounds: int = 200,
    lr: float = 0.1,
) -> dict[str, float]:
    """Learn the rates of `ATP` on simulated users, for the server.

    A user's loss is the cross-entropy of its own images after its step. From 0, all rates go against the mean of the
    users' gradients of it, each divided by the root of the tensor's size, as the authors do. The gradient is exact,
    since the direction of the step does not depend on the rates. The defaults are the authors'.

    Args:
        net: The network that lends its architecture.
        clients: Each simulated user's given state, task and labelled batches.
        rounds: The number of steps on the rates.
        lr: The learning rate of these steps.

    Returns:
        The rate of each tensor, by name.

    Raises:
        InputError: There is no user, a number cannot be used, data have no images or no labels, or the network has no
            normalisation layers.
    """
    names = _tensors(net)
    if not clients or not names or rounds < 0 or not 0 < lr < math.inf:
        raise InputError(
            "rates are learnt on at least one user and one normalisation layer, by 0 or more rounds of a positive "
            f"learning rate; got {len(clients)} users, {len(names)} tensors, rounds={rounds}, lr={lr}"
        )
    directions = [_directions(loaded(net, state), task, data) for state, task, data in clients]
    rates = dict.fromkeys(names, 0.0)
    with stage("learning the rates", rounds) as advance:
        for _ in range(rounds):
            change = dict.fromkeys(names, 0.0)
            for (state, task, data), direction in zip(clients, directions, strict=True):
                adapted = loaded(net, state)
                _step(adapted, rates, direction)
                for name, gradient in _all_gradients(adapted, task, data).items():
                    if name in direction:
                        change[name] += float((gradient * direction[name]).sum()) / math.sqrt(gradient.numel())
            rates = {name: rate + lr * change[name] / len(clients) for name, rate in rates.items()}
            advance()
    return rates


def save_rates(rates: Rates, folder: Path) -> Path:
    """Write rates to a file that is named by its content, since kept results know it by its name.

    Args:
        rates: The rates.
        folder: The folder.

    Returns:
        The file.

    Raises:
        InputError: It cannot be written.
    """
    # A device may have torch alone.
    from dua_lightning.store import tensorfile

    tensors = {name: torch.tensor(rate, dtype=torch.float64) for name, rate in rates.items()}
    path = folder / _name(tensors)
    tensorfile.save(path, tensors, {})
    return path


def _read(path: Path) -> dict[str, float]:
    """The rates of a file."""
    from dua_lightning.store import tensorfile

    tensors, _ = tensorfile.load(path)
    if path.name != (name := _name(tensors)):
        raise InputError(f"the rates in {path} are those of {name}, by which kept results know them; name it so again")
    return {name: float(tensor) for name, tensor in tensors.items()}


def _name(tensors: State) -> str:
    from dua_lightning.store import tensorfile

    return f"rates-{tensorfile.fingerprint(tensors)[:12]}.safetensors"


def _tensors(net: nn.Module) -> dict[str, Tensor]:
    """All tensors that a rate may be of, by the names under which the network lists them first."""
    statistics = {id(buffer) for layer in batch_norms(net) for buffer in (layer.running_mean, layer.running_var)}
    return {**norm_affine(net), **{name: b for name, b in net.named_buffers() if id(b) in statistics}}


def _step(net: nn.Module, rates: Rates, directions: State) -> None:
    """Move the tensors against their directions, in place."""
    with torch.no_grad():
        for name, tensor in _tensors(net).items():
            if name in directions:
                tensor -= rates.get(name, 0.0) * directions[name]
        for layer in batch_norms(net):
            assert layer.running_var is not None
            layer.running_var.clamp_(min=0)


def _directions(net: nn.Module, task: Task, data: Iterable[Batch]) -> State:
    """The gradient of the mean entropy, and the statistics less those of the images, which one pass measures."""
    parts: dict[int, list[tuple[int, Tensor, Tensor]]] = {}

    def note(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x: Tensor = (args[0] if args else kwargs["input"]).detach().transpose(0, 1).flatten(1)
        # Two layers may share their statistics.
        parts.setdefault(id(layer.running_mean), []).append((x.shape[1], x.mean(1), x.var(1, correction=0)))

    hooks = [layer.register_forward_pre_hook(note, with_kwargs=True) for layer in batch_norms(net)]
    directions = _gradients(net, task, data, lambda logits, _: entropies(logits).mean())
    for hook in hooks:
        hook.remove()
    names = {id(tensor): name for name, tensor in _tensors(net).items()}
    for layer in batch_norms(net):
        if id(layer.running_mean) in parts:
            counts, means, variances = zip(*parts[id(layer.running_mean)], strict=True)
            shares = torch.tensor(counts).to(means[0])[:, None] / sum(counts)
            mean = (shares * torch.stack(means)).sum(0)
            variance = (shares * (torch.stack(variances) + (torch.stack(means) - mean).square())).sum(0)
            directions[names[id(layer.running_mean)]] = layer.running_mean - mean
            directions[names[id(layer.running_var)]] = layer.running_var - variance
    return directions


def _gradients(net: nn.Module, task: Task, data: Iterable[Batch], objective: Objective) -> State:
    """The gradient of a loss' mean over all images by gamma and beta, in evaluation mode."""
    net.eval().requires_grad_(False)
    parameters, device, images = norm_affine(net), device_of(net.state_dict()), 0
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    for x, y in data:
        with refusing_batch(x, task):
            loss = objective(net(inputs(net, x, device))[:, task.classes], y)
        if loss.requires_grad:
            (len(x) * loss).backward()
        images += len(x)
    if not images:
        raise InputError(f"ATP needs at least one image of task {task.name}, and there is none")
    return {name: p.grad / images for name, p in parameters.items() if p.grad is not None}


def _all_gradients(net: nn.Module, task: Task, data: Iterable[Batch]) -> State:
    """The gradient of the mean cross-entropy by gamma, beta and, through them, the running statistics.

    With s^2 = variance + eps a layer gives gamma (x - mean) / s + beta, so that the gradient by the mean is - gamma / s
    of that by beta, and by the variance - gamma / (2 s^2) of that by gamma.
    """
    names = {id(tensor): name for name, tensor in _tensors(net).items()}
    for layer in batch_norms(net):
        assert layer.running_mean is not None
        if not layer.affine:
            layer.weight = nn.Parameter(torch.ones_like(layer.running_mean))
            layer.bias = nn.Parameter(torch.zeros_like(layer.running_mean))
    found = _gradients(net, task, data, cross_entropy(task))
    by = {id(parameter): found.get(name, 0 * parameter) for name, parameter in norm_affine(net).items()}
    for layer in batch_norms(net):
        assert layer.running_var is not None
        precision = (layer.running_var + layer.eps).reciprocal()
        for statistic, gradient in (
            (layer.running_mean, -layer.weight * precision.sqrt() * by[id(layer.bias)]),
            (layer.running_var, -layer.weight * precision / 2 * by[id(layer.weight)]),
        ):
            name = names[id(statistic)]
            found[name] = found.get(name, 0) + gradient.detach()
    return found
