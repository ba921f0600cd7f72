"""The terminal of a run: bars where it is one, a line for each finished stage everywhere."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from dua_lightning.report.characters import writable
from dua_lightning.report.terminal import Terminal

log = logging.getLogger(__name__)


class Rate(ProgressColumn):
    """A column of a bar: steps in a second, or seconds for a step where that is longer."""

    def render(self, task: Task) -> Text:
        """Write the rate.

        Args:
            task: The task of the bar.

        Returns:
            The rate; nothing while it is not known.
        """
        speed = task.finished_speed or task.speed
        if not speed:
            return Text()
        return Text(f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each")


class Display:
    """The bars of a run and the lines above them.

    Args:
        console: The console that is printed to.
    """

    def __init__(self, console: Terminal) -> None:
        self.console = console
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            Rate(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def say(self, text: str) -> None:
        """Print a line for people, and write it to the run's log.

        Args:
            text: The line.
        """
        self.console.print(text)
        log.info(text)

    @contextmanager
    def bar(self, text: str, total: int) -> Iterator[Callable[[str], None]]:
        """Show a bar while the block runs.

        Args:
            text: The text before the bar.
            total: The number of steps.

        Yields:
            A function that moves the bar on by one step and sets the note behind it.
        """
        task = self.progress.add_task(self._line(text), total=total, note="")
        try:
            yield lambda note: self.progress.update(task, advance=1, note=self._line(note))
        finally:
            self.progress.remove_task(task)

    def _line(self, text: str) -> str:
        """The text beside a bar, which moves lines of a terminal and so has one itself."""
        return writable(text, self.console.encoding).replace("\n", " ")
