"""Figures that are drawn and named as always, but not painted, which takes a third of a small run.

What is painted has tests of its own, in `tests/report`; command lines in processes of their own paint too.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO

import pytest
from matplotlib.figure import Figure

_save = Figure.savefig


@contextmanager
def unpainted() -> Iterator[None]:
    """Each figure's file is an empty picture of its format."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda figure, path, **_: path.write_bytes(_empty(path.suffix)))
        yield


@cache
def _empty(suffix: str) -> bytes:
    content = BytesIO()
    _save(Figure(figsize=(1, 1)), content, format=suffix[1:])
    return content.getvalue()
