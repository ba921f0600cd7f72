"""A table of records that is written while a run goes on, so that none of them stays in memory."""

import csv
import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import astuple, fields
from io import StringIO
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from dua_lightning.errors import InputError
from dua_lightning.report.records import CostRecord, Record, TrainingRecord
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

    def write(self, records: Sequence[Record | CostRecord | TrainingRecord]) -> None:
        """Append records together: a signal does not part them.

        Args:
            records: Records of one kind, the same in every call.

        Raises:
            InputError: The file cannot be written.
        """
        if not records:
            return
        text = StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if self._file is None:
            writer.writerow([field.name for field in fields(records[0])])
        writer.writerows(["" if _nan(value) else value for value in astuple(record)] for record in records)
        try:
            with refusing(self.path):
                if self._file is None:
                    temporary = self._opened.enter_context(replacing(self.path))
                    # Whoever reads the table need not know of the bytes of names that are no text.
                    file = temporary.open("w", encoding="utf-8", errors="backslashreplace")
                    self._file = self._opened.enter_context(file)
                self._file.write(text.getvalue())
        except InputError:
            self._broken = True
            raise


def _nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)
