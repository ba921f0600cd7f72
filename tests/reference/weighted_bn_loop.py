"""Batch-norm statistics of weighted images, mixed with the given ones: layer by layer, channel by channel."""

import torch
from torch import Tensor, nn


def weighted_bn(
    layers: nn.Sequential, xs: Tensor, weights: list[float], share_kept: float, first: int = 1000
) -> dict[str, tuple[Tensor, Tensor]]:
    """Layer's name -> its new mean and variance, each layer fed by the ones that have theirs already.

    Layers behind the first ones keep all of what they had.
    """
    found: dict[str, tuple[Tensor, Tensor]] = {}
    h = xs
    for name, layer in layers.named_children():
        if not isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            h = layer.eval()(h).detach()
            continue
        kept = share_kept if len(found) < first else 1.0
        mean, var, out = torch.zeros(h.shape[1]).double(), torch.zeros(h.shape[1]).double(), torch.empty_like(h)
        for c in range(h.shape[1]):
            values = [(w / h[i, c].numel(), v) for i, w in enumerate(weights) for v in h[i, c].flatten().tolist()]
            own = sum(w * v for w, v in values) / sum(weights)
            spread = sum(w * (v - own) ** 2 for w, v in values) / sum(weights)
            mean[c] = kept * layer.running_mean[c].item() + (1 - kept) * own
            var[c] = kept * layer.running_var[c].item() + (1 - kept) * spread
            out[:, c] = (h[:, c] - mean[c]) / (var[c] + layer.eps) ** 0.5
            if layer.affine:
                out[:, c] = out[:, c] * layer.weight[c].item() + layer.bias[c].item()
        found[name] = mean, var
        h = out
    return found


def balancing_weights(shares: list[list[float]], fewest: float) -> list[float]:
    """The weight of each image: an equal part of every class with enough images, divided by the shares in the class."""
    n, classes = len(shares), len(shares[0])
    weights = [0.0] * n
    counted = [c for c in range(classes) if sum(row[c] for row in shares) >= fewest]
    if not counted:
        return [1.0] * n
    for c in counted:
        size = sum(row[c] for row in shares)
        for i in range(n):
            weights[i] += n / len(counted) * shares[i][c] / size
    return weights
