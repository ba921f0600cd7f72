"""AdaBN: layer by layer, channel by channel, over all images at once."""

import torch
from torch import Tensor, nn


def adabn(layers: nn.Sequential, xs: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Layer's name -> mean and population variance of its input, each layer fed by the ones already adapted."""
    found = {}
    h = xs
    for name, layer in layers.named_children():
        if not isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            h = layer.eval()(h).detach()
            continue
        mean, var, out = torch.zeros(h.shape[1]).double(), torch.zeros(h.shape[1]).double(), torch.empty_like(h)
        for c in range(h.shape[1]):
            values = h[:, c].flatten().tolist()
            mean[c] = sum(values) / len(values)
            var[c] = sum((v - mean[c]) ** 2 for v in values) / len(values)
            out[:, c] = (h[:, c] - mean[c]) / (var[c] + layer.eps) ** 0.5
            if layer.affine:
                out[:, c] = out[:, c] * layer.weight[c].item() + layer.bias[c].item()
        found[name] = mean, var
        h = out
    return found


def adabn_of_uses(net: nn.Module, path: list[tuple[int, int]], xs: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Mean and population variance of each layer of `net.norms` over the inputs of all its uses along the path.

    Each use normalises by the moments of its own input. A layer without a use has those that it had.
    """
    inputs: dict[int, list[Tensor]] = {}
    h = xs
    for i, j in path:
        h = h @ net.linears[i].weight.detach().T + net.linears[i].bias.detach()
        inputs.setdefault(j, []).append(h)
        layer = net.norms[j]
        h = (h - h.mean(0)) / (h.var(0, correction=0) + layer.eps).sqrt() * layer.weight.detach() + layer.bias.detach()
        h = h.tanh()
    found = []
    for j, layer in enumerate(net.norms):
        rows = torch.cat(inputs[j]) if j in inputs else None
        found.append(
            (layer.running_mean, layer.running_var) if rows is None else (rows.mean(0), rows.var(0, correction=0))
        )
    return found
