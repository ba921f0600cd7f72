"""Loops over the memory of tensors that numba compiles, and threads of our own that share them.

Modules that import this are imported where it pays: numba takes long to load, and to compile, the first time on a
machine.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

Item = TypeVar("Item")
Result = TypeVar("Result")
"""Types of a thread's input and output."""


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function, and keep it on disk where there is a place for it.

    There is no fast maths but that a product may be added without its own rounding: the code computes what is written,
    in its order.

    Args:
        function: The function; it may not call Python.

    Returns:
        The compiled function.
    """
    try:
        found: Callable[..., Any] = njit(function, nogil=True, cache=True, error_model="numpy", fastmath={"contract"})
    except RuntimeError:
        found = njit(function, nogil=True, error_model="numpy", fastmath={"contract"})
    return found


def _to_pointer(_: Any, address: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), code


pointer: Callable[..., Any] = intrinsic(_to_pointer)
"""A function for compiled code: the pointer to an address."""


def in_threads(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Apply a function to items by as many threads as torch uses, the caller's own among them.

    Threads of numba's own would end the process in a fork of it, and on some systems with two loops at a time. A pool
    that outlived the call would have no threads in a fork.

    Args:
        work: The function.
        items: The items; each thread takes the next one when it has done one.

    Returns:
        The results in any order.
    """
    waiting = iter(items)

    def some() -> list[Result]:
        return [work(item) for item in waiting]

    others = min(torch.get_num_threads(), len(items)) - 1
    if others < 1:
        return some()
    with ThreadPoolExecutor(others) as pool:
        futures = [pool.submit(some) for _ in range(others)]
        return some() + [result for future in futures for result in future.result()]
