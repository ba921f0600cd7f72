"""The diagonal Fisher: one image, one label and one backward pass at a time."""

import copy
from collections.abc import Sequence

from torch import Tensor, nn

from dua_lightning.tasks import Expert


def fim_true(net: nn.Module, expert: Expert, xs: Tensor, ys: Tensor) -> dict[str, Tensor]:
    """Mean over images of (d log p(label | image) / d theta)^2."""
    return _mean(
        net, expert, [(x, int(y) - expert.task.classes.start, 1 / len(xs)) for x, y in zip(xs, ys, strict=True)]
    )


def fim_sampled(net: nn.Module, expert: Expert, xs: Tensor, uniforms: Sequence[float]) -> dict[str, Tensor]:
    """The same with the first label whose cumulative probability exceeds the image's uniform number."""
    terms = []
    for x, p, uniform in zip(xs, _probabilities(net, expert, xs), uniforms, strict=True):
        column, cumulative = 0, p[0]
        while uniform >= cumulative:
            column += 1
            cumulative += p[column]
        terms.append((x, column, 1 / len(xs)))
    return _mean(net, expert, terms)


def fim_expected(net: nn.Module, expert: Expert, xs: Tensor) -> dict[str, Tensor]:
    """The same with every label, weighted by its probability: what the sampled Fisher estimates."""
    terms = []
    for x, p in zip(xs, _probabilities(net, expert, xs), strict=True):
        terms += [(x, column, p[column] / len(xs)) for column in range(len(p))]
    return _mean(net, expert, terms)


def _probabilities(net: nn.Module, expert: Expert, xs: Tensor) -> list[list[float]]:
    net = copy.deepcopy(net).eval()
    net.load_state_dict(expert.state)
    return [net(x[None])[0, expert.task.classes].softmax(0).tolist() for x in xs]


def _mean(net: nn.Module, expert: Expert, terms: list[tuple[Tensor, int, float]]) -> dict[str, Tensor]:
    net = copy.deepcopy(net).eval()
    net.load_state_dict(expert.state)
    omega = {name: p.detach() * 0 for name, p in net.named_parameters(remove_duplicate=False)}
    for x, column, weight in terms:
        net.zero_grad()
        net(x[None])[0, expert.task.classes].softmax(0)[column].log().backward()
        for name, p in net.named_parameters(remove_duplicate=False):
            omega[name] += weight * p.grad**2
    return {name: o for name, o in omega.items() if not name.startswith("head.")}
