"""A table of records that is written while a run goes on, so that none of them stays in memory."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import astuple, fields
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from dua_lightning.errors import InputError
from dua_lightning.report.records import AnyRecord, lines
from dua_lightning.store.files import refusing, replacing


class Stream:
    """A file of records that are written as they come.

    They go to a temporary file beside it, which becomes the file when the block ends, however it does. A run that is
    stopped leaves the records that it has; one that is killed leaves the table of an earlier run, or none, and finds
    its results in the store. Without records there is no file. The bits are those of `records.write`.

    Args:
        path: The file.

    Raises:
        InputError: The file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened = ExitStack()
        self._file: IO[str] | None = None
        self._broken = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with refusing(self.path):
            if self._broken:
                # The temporary file goes.
                self._opened.__exit__(kind, error, trace)
            else:
                self._opened.close()

    @property
    def begun(self) -> bool:
        """Whether any records have been written."""
        return self._file is not None

    def write(self, records: Sequence[AnyRecord]) -> None:
        """Append records together: a signal does not part them.

        Args:
            records: Records of one kind, the same in every call.

        Raises:
            InputError: The file cannot be written.
        """
        if not records:
            return
        header = [[field.name for field in fields(records[0])]] if self._file is None else []
        text = lines([*header, *map(astuple, records)])
        try:
            with refusing(self.path):
                if self._file is None:
                    temporary = self._opened.enter_context(replacing(self.path))
                    opened = temporary.open("w", encoding="utf-8", errors="surrogateescape")
                    self._file = self._opened.enter_context(opened)
                self._file.write(text)
        except InputError:
            self._broken = True
            raise
