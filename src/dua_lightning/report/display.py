"""The terminal of a run: the stages that are under way, and a line for each finished one."""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Self

from dua_lightning.progress import Lines, shown, stage
from dua_lightning.report.terminal import Terminal

log = logging.getLogger(__name__)


class Display:
    """The stages of a run and the lines above them; a context manager that shows the stages.

    Args:
        console: The console that is printed to.
    """

    def __init__(self, console: Terminal) -> None:
        self.console = console
        self._lines: Lines | None = None
        self._shown = ExitStack()

    def __enter__(self) -> Self:
        self._lines = self._shown.enter_context(shown(self.console))
        return self

    def __exit__(self, *error: object) -> None:
        self._shown.close()

    def say(self, text: str) -> None:
        """Print a line for people, and write it to the run's log.

        Args:
            text: The line.
        """
        self.console.print(text)
        log.info(text)
        if self._lines is not None:
            self._lines.spoke()

    def bar(self, text: str, total: int, first: int = 0) -> AbstractContextManager[Callable[[str], None]]:
        """Show a bar while the block runs.

        Args:
            text: The text before the bar.
            total: The number of steps.
            first: The number of steps that were made before.

        Returns:
            A context manager; its function moves the bar on by one step and sets the note behind it.
        """
        return stage(text, total, first=first)
