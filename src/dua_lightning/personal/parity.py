"""Whether a written file computes what the network computes."""

from collections.abc import Callable

import torch
from torch import Tensor

from dua_lightning.errors import InputError

TOLERANCE = 1e-4
"""Numbers of a written file differ by at most so much, relative to those above 1."""
EXAMPLES = 3
"""The number of inputs of the batch that networks are traced with; a number above 1, which would be taken as fixed."""


def examples(shape: tuple[int, ...], n: int = EXAMPLES) -> Tensor:
    """Draw inputs that are distributed as normalised ones are, always the same.

    Args:
        shape: The shape of one input.
        n: The number of inputs.

    Returns:
        `(n, *shape)`.
    """
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(0))


def require_parity(net: Callable[[Tensor], Tensor], written: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Refuse a file whose logits are others than the network's, of one input or of several.

    Args:
        net: The network.
        written: The network as it is in the file.
        x: `(n, *shape)` some inputs.

    Raises:
        InputError: They are others.
    """
    for some in (x, x[:1]):
        require_same(written(some), net(some), "the logits")


def require_same(found: Tensor, expected: Tensor, what: str) -> None:
    """Refuse numbers of a file that are others than the network's.

    Args:
        found: The numbers of the file.
        expected: Those of the network, of the same shape.
        what: A word for them, for the message.

    Raises:
        InputError: They differ by more than `TOLERANCE`.
    """
    worst = float(((found - expected).abs() / expected.abs().clamp(min=1)).max())
    if not worst <= TOLERANCE:
        raise InputError(f"{what} of the file and of the network differ by {worst:.1g}")
