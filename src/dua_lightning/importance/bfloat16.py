"""Whether a processor is worth passes in bfloat16."""

import logging
from functools import cache, partial
from timeit import repeat

import torch

log = logging.getLogger(__name__)

SIDE = 512
"""The side of the matrices whose product is timed: large enough for the processor's own instructions, milliseconds."""


@cache
def say_if_slow() -> None:
    """Say in the log that passes in bfloat16 do not pay on this processor, if so; once in a process.

    It is measured, since what a processor can do by its name tells neither of threads nor of PyTorch's build.
    """
    ratio = seconds(torch.bfloat16) / seconds(torch.float32)
    if ratio > 1:
        log.warning(
            "this processor computes more slowly in bfloat16: a product of matrices takes %.1f times as long as in "
            "float32; use precision=full",
            ratio,
        )


def seconds(dtype: torch.dtype) -> float:
    """Time a product of two matrices on the processor.

    Args:
        dtype: The type of their entries.

    Returns:
        The shortest time of a few, in seconds.
    """
    a = torch.ones(SIDE, SIDE, dtype=dtype)
    # The first one also makes the threads.
    return min(repeat(partial(torch.mm, a, a), number=1, repeat=5))
