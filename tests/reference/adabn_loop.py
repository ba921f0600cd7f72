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
