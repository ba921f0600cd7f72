"""The engine as the tests see it."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from dua_lightning.importance import persample


@contextmanager
def fallbacks() -> Iterator[list[str]]:
    """The lines in which the engine says that `torch.func` serves a network."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    keep = Keep(logging.WARNING)
    persample.log.addHandler(keep)
    try:
        yield lines
    finally:
        persample.log.removeHandler(keep)
