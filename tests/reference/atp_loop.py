"""ATP of a stack of layers: statistics as plain tensors, so that autograd gives every gradient."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tests.reference.steps_loop import entropy, mean

Stack = list[tuple[str, nn.Module]]
NORMS = ("weight", "bias", "running_mean", "running_var")


def forward(layers: Stack, tensors: dict[str, Tensor], x: Tensor, seen: dict[str, Tensor] | None = None) -> Tensor:
    """The logits, each batch norm written out; `seen` gets the moments of its inputs."""
    for name, layer in layers:
        if not isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            x = layer(x)
            continue
        columns = x.transpose(0, 1).flatten(1)
        if seen is not None:
            seen[f"{name}.running_mean"] = columns.mean(1).detach()
            seen[f"{name}.running_var"] = columns.var(1, correction=0).detach()
        shape = (-1, *[1] * (x.dim() - 2))
        gamma, beta, m, v = (tensors.get(f"{name}.{one}") for one in NORMS)
        x = (x - m.view(shape)) / (v.view(shape) + layer.eps).sqrt()
        x = x if gamma is None else gamma.view(shape) * x + beta.view(shape)
    return x


def tensors_of(layers: Stack) -> dict[str, Tensor]:
    return {
        f"{name}.{one}": getattr(layer, one).detach().clone().requires_grad_()
        for name, layer in layers
        for one in NORMS
        if isinstance(getattr(layer, one, None), Tensor) and isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)
    }


def step(layers: Stack, rates: dict[str, float], x: Tensor, classes: slice) -> tuple[dict[str, Tensor], dict]:
    """The tensors after the step, and its direction."""
    tensors, seen = tensors_of(layers), {}
    loss = mean([entropy(row) for row in forward(layers, tensors, x, seen)[:, classes]])
    gradients = torch.autograd.grad(loss, list(tensors.values()))
    direction = {
        name: tensors[name].detach() - seen[name] if name in seen else gradient
        for name, gradient in zip(tensors, gradients, strict=True)
    }
    after = {name: tensors[name].detach() - rates[name] * direction[name] for name in tensors}
    return {name: t.clamp(min=0) if name.endswith("_var") else t for name, t in after.items()}, direction


def learn(layers: Stack, users: Sequence[tuple[Tensor, Tensor]], classes: slice, rounds: int, lr: float) -> dict:
    """Rates by the gradient of the users' losses as functions of the rates themselves."""
    rates = dict.fromkeys(tensors_of(layers), 0.0)
    for _ in range(rounds):
        change = dict.fromkeys(rates, 0.0)
        for x, y in users:
            _, direction = step(layers, rates, x, classes)
            alpha = {name: torch.tensor(rate, dtype=x.dtype, requires_grad=True) for name, rate in rates.items()}
            after = {name: t.detach() - alpha[name] * direction[name] for name, t in tensors_of(layers).items()}
            loss = nn.functional.cross_entropy(forward(layers, after, x)[:, classes], y - classes.start)
            for name, gradient in zip(alpha, torch.autograd.grad(loss, list(alpha.values())), strict=True):
                change[name] -= gradient.item() / math.sqrt(direction[name].numel())
        rates = {name: rate + lr * change[name] / len(users) for name, rate in rates.items()}
    return rates
