"""The three-layer perceptron of the Numbers benchmark."""

import math

import torch
from torch import nn

from dua_lightning.errors import InputError
from dua_lightning.nets.network import Network
from dua_lightning.streams import derive


def mlp(shape: tuple[int, ...], classes: int, seed: int, width: int = 100) -> Network:
    """Build the three-layer perceptron of the Numbers benchmark: two hidden layers of rectified units.

    The weights are PyTorch's default initialisation, drawn from the stream `(seed, "weights")`; the caller's random
    state is left alone.

    Args:
        shape: The shape of one input.
        classes: The number of columns of the head.
        seed: The run's seed.
        width: Units of each hidden layer.

    Returns:
        The network.

    Raises:
        InputError: `width` is less than 1.
    """
    if width < 1:
        raise InputError(f"the hidden layers of the mlp need at least 1 unit, got width={width}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "weights"))
        body = nn.Sequential(
            nn.Flatten(),
            nn.Linear(math.prod(shape), width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
        )
        return Network(body, nn.Linear(width, classes))
