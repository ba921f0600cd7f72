"""Steps without labels, one image and one number at a time: losses, optimizers and the training of normalisation."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Loss = Callable[[Tensor], Tensor | None]
"""The loss of a batch's task logits; `None` where it takes no step."""


def softmax(row: Tensor) -> list[Tensor]:
    total = sum(z.exp() for z in row)
    return [z.exp() / total for z in row]


def entropy(row: Tensor) -> Tensor:
    return -sum(p * p.log() for p in softmax(row))


def mean(values: Sequence[Any]) -> Any:
    return sum(values) / len(values)


class Adam:
    """Moving means of the gradient and of its square, each divided by how far it is filled."""

    def __init__(self, parameters: list[nn.Parameter], lr: float) -> None:
        self.parameters, self.lr, self.t = parameters, lr, 0
        self.m, self.v = ([torch.zeros_like(p) for p in parameters] for _ in range(2))

    def step(self, gradients: Sequence[Tensor]) -> None:
        self.t += 1
        for p, g, m, v in zip(self.parameters, gradients, self.m, self.v, strict=True):
            m.copy_(0.9 * m + 0.1 * g)
            v.copy_(0.999 * v + 0.001 * g * g)
            p.data -= self.lr * (m / (1 - 0.9**self.t)) / ((v / (1 - 0.999**self.t)).sqrt() + 1e-8)


class SGD:
    """The velocity is 0.9 of the last one and the gradient."""

    def __init__(self, parameters: list[nn.Parameter], lr: float) -> None:
        self.parameters, self.lr = parameters, lr
        self.velocity = [torch.zeros_like(p) for p in parameters]

    def step(self, gradients: Sequence[Tensor]) -> None:
        for p, g, v in zip(self.parameters, gradients, self.velocity, strict=True):
            v.copy_(0.9 * v + g)
            p.data -= self.lr * v


def norms(net: nn.Module, given: bool = False) -> list[nn.Parameter]:
    """Put a network into the mode of the steps; gamma and beta of its layers, in their order."""
    net.eval()
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) and not given:
            layer.train()
    return [p for layer in net.modules() if isinstance(layer, kinds) for p in layer.parameters()]


def steps(
    net: nn.Module, classes: slice, batches: Sequence[Tensor], epochs: int, optimizer: Adam | SGD, loss: Loss
) -> None:
    """One step for each batch and pass."""
    for _ in range(epochs):
        for x in batches:
            value = loss(net(x)[:, classes])
            if value is not None:
                optimizer.step(torch.autograd.grad(value, optimizer.parameters))


def information(logits: Tensor, prior: Sequence[float]) -> Tensor:
    """Mean entropy, and Kullback-Leibler divergence of the mean prediction from the prior."""
    q = [mean([softmax(row)[c] for row in logits]) for c in range(logits.shape[1])]
    return mean([entropy(row) for row in logits]) + sum(q[c] * (q[c].log() - math.log(prior[c])) for c in range(len(q)))


class Chosen:
    """The loss of EATA: image by image, reliable and unlike the moving mean of those chosen before."""

    def __init__(self, classes: int, limit: float, pull: Callable[[], Tensor]) -> None:
        self.margin, self.limit, self.pull = 0.4 * math.log(classes), limit, pull
        self.mean: list[float] | None = None

    def __call__(self, logits: Tensor) -> Tensor | None:
        terms, predictions = [], []
        for row in logits:
            e, p = entropy(row), [q.item() for q in softmax(row)]
            if e.item() < self.margin and (self.mean is None or abs(_cosine(self.mean, p)) < self.limit):
                terms.append(math.exp(self.margin - e.item()) * e)
                predictions.append(p)
        if not terms:
            return None
        new = [mean(column) for column in zip(*predictions, strict=True)]
        old = new if self.mean is None else self.mean
        self.mean = [0.9 * a + 0.1 * b for a, b in zip(old, new, strict=True)]
        return mean(terms) + self.pull()


def _cosine(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def fisher(net: nn.Module, classes: slice, batches: Sequence[Tensor], parameters: list[nn.Parameter]) -> list[Tensor]:
    """The mean over batches of the square of the mean gradient of -log p(most probable class)."""
    found = []
    for x in batches:
        loss = mean([-max(softmax(row)).log() for row in net(x)[:, classes]])
        found.append([g * g for g in torch.autograd.grad(loss, parameters)])
    return [mean(of_one) for of_one in zip(*found, strict=True)]


def sharpness_aware(
    net: nn.Module, classes: slice, batches: Sequence[Tensor], epochs: int, optimizer: SGD, rho: float, recovery: float
) -> int:
    """SAR; how often it has begun anew."""
    parameters = optimizer.parameters
    start = [p.detach().clone() for p in parameters]
    moving, recovered = None, 0
    for _ in range(epochs):
        for x in batches:
            limit = 0.4 * math.log(classes.stop - classes.start)
            first = [entropy(row) for row in net(x)[:, classes]]
            reliable = [i for i, e in enumerate(first) if e.item() < limit]
            if not reliable:
                continue
            gradients = torch.autograd.grad(mean([first[i] for i in reliable]), parameters)
            length = math.sqrt(sum((g * g).sum().item() for g in gradients))
            before = [p.detach().clone() for p in parameters]
            for p, g in zip(parameters, gradients, strict=True):
                p.data += rho * g / length
            second = [entropy(row) for row in net(x)[:, classes]]
            reliable = [i for i in reliable if second[i].item() < limit]
            value = mean([second[i] for i in reliable]) if reliable else None
            gradients = torch.autograd.grad(value, parameters) if reliable else ()
            for p, old in zip(parameters, before, strict=True):
                p.data = old
            if value is None:
                continue
            optimizer.step(gradients)
            moving = value.item() if moving is None else 0.9 * moving + 0.1 * value.item()
            if moving < recovery:
                for p, old in zip(parameters, start, strict=True):
                    p.data = old.clone()
                for v in optimizer.velocity:
                    v.zero_()
                moving, recovered = None, recovered + 1
    return recovered
