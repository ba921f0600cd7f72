"""Pictures from the first layer's importances, by non-negative matrix factorisation.

[Lee1999] D. Lee, S. Seung. Learning the parts of objects by non-negative matrix factorization. Nature 401, 1999.
[Zhu2019] L. Zhu, Z. Liu, S. Han. Deep leakage from gradients. NeurIPS 2019.

The gradient of a linear layer's weights for one image is d a^T, with d what comes back to its units and a what they
read: the image itself in the first layer. That one image's gradient gives the image away is known [Zhu2019]. An
importance takes absolute values or squares image by image, and so Omega = (1/n) sum_i |d_i| |a_i|^T is non-negative, of
rank n, and a factorisation into n non-negative parts [Lee1999] looks for the |a_i|.
"""

import warnings
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.decomposition import NMF
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor, nn

from dua_lightning.errors import InputError
from dua_lightning.privacy.attacks.base import Known

ITERATIONS = 2000
"""Iterations at the most. Of ten digits 300 got 83 % back, with scikit-learn's own tolerance, and these 90 %."""
TOLERANCE = 1e-6
"""The share of the first change of the factors below which they count as found."""


class Factors(NamedTuple):
    """The parts that a layer's importances were factorised into.

    Attributes:
        layer: The layer's name.
        inputs: `(r, inputs of the layer)` what the layer is guessed to have read, without signs; r is the number of
            images, or the number of units or inputs where that is less. Of a convolution a patch `(channels, height,
            width)`, flattened. Where the layer has a bias they have the scale of the true ones, up to the errors of the
            factorisation.
    """

    layer: str
    inputs: Tensor


def factorise(known: Known, layer: str | None = None, iterations: int = ITERATIONS) -> Factors:
    """Guess what a layer read of each of the user's images, up to signs.

    With one image the guess is exact: the importances of a unit's weights, divided by that of its bias, are |a|, in
    the FIM a^2. With more, how close it comes depends on how different the images are. After a rectified unit the
    numbers that a layer reads are non-negative, and have no sign to lose.

    For a convolution the gradient is the sum over all positions of d times the patch read there, and only the absolute
    value of that sum is seen. The parts are then mixtures of patches: a texture at the best, and no picture.

    Args:
        known: What the attacker knows.
        layer: The linear or convolutional layer's name in the network; by default the first one that the prior has.
        iterations: Iterations of the factorisation.

    Returns:
        The parts.

    Raises:
        InputError: The prior has no importances of such a layer.
    """
    layers = {
        name: module
        for name, module in known.net.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and f"{name}.weight" in known.prior
    }
    name = next(iter(layers), "a linear or convolutional layer") if layer is None else layer
    if name not in layers:
        raise InputError(f"the prior has no importances of {name}; a factorisation needs those of a whole layer")
    columns = [known.prior[f"{name}.weight"].flatten(1)]
    if f"{name}.bias" in known.prior:
        columns.append(known.prior[f"{name}.bias"][:, None])
    matrix = torch.cat(columns, 1).double().cpu().clamp(min=0)
    # A scale of its own for each unit changes no part, and lets units of small gradients count as well.
    matrix = matrix / matrix.sum(1, keepdim=True).clamp(min=torch.finfo(matrix.dtype).tiny)
    parts = min(known.images, *matrix.shape)
    model = NMF(parts, init="nndsvda", max_iter=iterations, tol=TOLERANCE, random_state=0)
    with warnings.catch_warnings():
        # It has had its iterations.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(matrix.numpy())
    found = torch.from_numpy(model.components_)
    if len(columns) == 2:
        found, scale = found[:, :-1], found[:, -1:]
        found = torch.where(scale > 0, found / scale.clamp(min=torch.finfo(found.dtype).tiny), found)
    return Factors(name, found.sqrt() if known.squares else found)


def correlations(guesses: Tensor, truths: Tensor) -> np.ndarray:
    """Correlate guesses with what is true.

    Args:
        guesses: `(r, ...)` guesses.
        truths: `(n, ...)` of as many numbers each; give absolute values where a guess has no signs.

    Returns:
        `(r, n)` the Pearson correlation of each pair over their numbers; 0 where one of them is constant.
    """
    a, b = (_standardised(t.detach().cpu().double().flatten(1)) for t in (guesses, truths))
    found: np.ndarray = (a @ b.T).numpy()
    return found


def _standardised(rows: Tensor) -> Tensor:
    """Rows of mean 0 and length 1; a row of one number is 0, though its mean be rounded."""
    spread = rows - rows.mean(1, keepdim=True)
    rounding = rows.shape[1] * torch.finfo(rows.dtype).eps * rows.abs().amax(1, keepdim=True)
    length = spread.norm(dim=1, keepdim=True)
    return torch.where(length > rounding, spread / length, 0)


def matched(correlated: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give each truth a guess of its own so that the sum of correlations is largest, by the Hungarian method.

    The attacker cannot do it: it finds which guess is of which picture, and so needs the pictures. It favours every
    attack and every control alike.

    Args:
        correlated: `(r, n)` as `correlations` gives them.

    Returns:
        `(n,)` the correlation of each truth with its guess, 0 where there are fewer guesses than truths; and `(n,)` the
        guess's place, -1 where there is none.
    """
    rows, columns = linear_sum_assignment(correlated, maximize=True)
    found, places = np.zeros(correlated.shape[1]), np.full(correlated.shape[1], -1)
    found[columns], places[columns] = correlated[rows, columns], rows
    return found, places


def patches(net: nn.Module, layer: str, images: Iterable[Tensor]) -> Tensor:
    """Cut images into the patches that a convolution reads, to score a guess of its inputs.

    Args:
        net: The network.
        layer: The name of its first layer, a convolution that reads the images themselves.
        images: Batches of images `(n, channels, height, width)`.

    Returns:
        `(patches of all images, channels * height * width of the kernel)`.

    Raises:
        InputError: The layer is none, or pads with something else than zeros.
    """
    conv = dict(net.named_modules()).get(layer)
    if not isinstance(conv, nn.Conv2d) or isinstance(conv.padding, str) or conv.padding_mode != "zeros":
        raise InputError(f"patches are cut for a convolution that pads with a number of zeros, got {layer}")
    cut = nn.Unfold(conv.kernel_size, dilation=conv.dilation, padding=conv.padding, stride=conv.stride)
    return torch.cat([cut(x).transpose(1, 2).flatten(0, 1) for x in images])
