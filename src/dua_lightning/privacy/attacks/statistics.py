"""Attacks on batch-norm statistics of a user's images: what they would tell, if they were sent.

[Yin2021] H. Yin, A. Mallya, A. Vahdat, J. Alvarez, J. Kautz, P. Molchanov. See through gradients: image batch recovery
via GradInversion. CVPR 2021.

Statistics of batch normalisation are known to help whoever inverts gradients [Yin2021]. In the method they stay on the
device; these attacks say what would come of sending them, as after AdaBN.
"""

import numpy as np
import torch
from torch import Tensor, nn

from dua_lightning.errors import InputError
from dua_lightning.params import State, batch_norms, fitted


def channel_means(net: nn.Module, state: State, shape: tuple[int, ...]) -> Tensor:
    """Guess the mean of each channel of the user's images, their mean colour, from the first layer's statistics.

    The means of a convolution's outputs are its response to the mean of the patches that it reads. Of a picture that
    has the same mean everywhere they are linear in that mean, and least squares solve for it.

    Args:
        net: The network; its first convolution reads the images, and its first batch normalisation that convolution's
            outputs.
        state: The state with the statistics that were taken on the user's images.
        shape: `(channels, height, width)` of an image.

    Returns:
        `(channels,)` the means, of inputs as the network reads them.

    Raises:
        InputError: The network has no convolution or no batch normalisation, or the first do not fit each other.
    """
    tensors = fitted(net, state)
    names = {module: name for name, module in net.named_modules()}
    conv = next((module for module in net.modules() if isinstance(module, nn.Conv2d)), None)
    norm = next(iter(batch_norms(net)), None)
    if conv is None or norm is None or conv.out_channels != norm.num_features or conv.in_channels != shape[0]:
        raise InputError("the mean colour is guessed from a first convolution of images and a batch norm behind it")
    weight = tensors[f"{names[conv]}.weight"]
    # One picture for each channel: 1 in that channel, and 0 in the others.
    ones = torch.eye(shape[0], dtype=weight.dtype, device=weight.device)[:, :, None, None].expand(-1, -1, *shape[1:])
    response = nn.functional.conv2d(ones, weight, None, conv.stride, conv.padding, conv.dilation, conv.groups)
    mean = tensors[f"{names[norm]}.running_mean"]
    if conv.bias is not None:
        mean = mean - tensors[f"{names[conv]}.bias"]
    solved: Tensor = torch.linalg.lstsq(response.mean((2, 3)).T.double(), mean.double(), driver="gelsd").solution
    return solved


def statistics_features(net: nn.Module, state: State) -> np.ndarray:
    """Take the statistics of all batch-norm layers as features for `ClassPrior`.

    Args:
        net: The network.
        state: The state with the statistics that were taken on the user's images.

    Returns:
        `(features,)` the means, and the logs of the variances.

    Raises:
        InputError: The network has no batch normalisation.
    """
    tensors, names = fitted(net, state), {module: name for name, module in net.named_modules()}
    layers = [names[layer] for layer in batch_norms(net)]
    if not layers:
        raise InputError(f"this {type(net).__name__} has no batch-norm layers, and so no statistics")
    means = [tensors[f"{name}.running_mean"] for name in layers]
    logs = [tensors[f"{name}.running_var"].clamp(min=torch.finfo(torch.float32).tiny).log() for name in layers]
    return torch.cat([*means, *logs]).double().cpu().numpy()
