"""One item after another, in this process."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from dua_lightning.engines.base import Work
from dua_lightning.store.tensorfile import Tensors


class Serial:
    """Computes an item when it is submitted; nothing is started, and nothing copied."""

    room = 1
    by_path = False

    def __init__(self) -> None:
        self._shared: dict[str, Tensors] = {}
        self._done: list[tuple[int, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shared.clear()

    @property
    def pending(self) -> int:
        """The number of items that were submitted and whose results have not been received."""
        return len(self._done)

    def share(self, key: str, path: Path, tensors: Tensors) -> None:
        self._shared[key] = tensors

    def submit(self, work: Work, place: int, item: Any, keys: Sequence[str]) -> None:
        self._done.append((place, work.own(item, {key: self._shared[key] for key in keys})))

    def receive(self) -> tuple[int, Any]:
        return self._done.pop(0)
