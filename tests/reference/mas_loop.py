"""MAS, eq. (3): one image and one backward pass at a time."""

import copy

from torch import Tensor, nn

from dua_lightning.tasks import Expert


def mas(net: nn.Module, expert: Expert, xs: Tensor) -> dict[str, Tensor]:
    """Mean over images of | d (sum of the task's squared logits) / d theta |, for every weight outside the head."""
    net = copy.deepcopy(net).eval()
    net.load_state_dict(expert.state)
    omega = {name: p.detach() * 0 for name, p in net.named_parameters(remove_duplicate=False)}
    for x in xs:
        net.zero_grad()
        sum(logit**2 for logit in net(x[None])[0, expert.task.classes]).backward()
        for name, p in net.named_parameters(remove_duplicate=False):
            omega[name] += p.grad.abs() / len(xs)
    return {name: o for name, o in omega.items() if not name.startswith("head.")}
