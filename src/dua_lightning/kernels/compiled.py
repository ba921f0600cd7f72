"""What numba compiles: loops over the memory of tensors, which threads of our own share.

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


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Kept on disk where there is a place for it. Without fast maths: what is written is computed, in its order."""
    try:
        found: Callable[..., Any] = njit(function, nogil=True, cache=True, error_model="numpy")
    except RuntimeError:
        found = njit(function, nogil=True, error_model="numpy")
    return found


def _to_pointer(_: Any, address: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), code


pointer: Callable[..., Any] = intrinsic(_to_pointer)
"""Of an address, in compiled code."""


def in_threads(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """`work` on each of the items, by as many threads as torch uses; on a single one by the caller's.

    Threads of numba's own would end the process in a fork of it, and on some systems with two loops at a time.
    """
    if len(items) == 1:
        return [work(items[0])]
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return list(pool.map(work, items))
