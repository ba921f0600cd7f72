"""The stages of a run: bars on a terminal, and elsewhere a line now and then.

Code that can take long says so by `stage`, and the command line shows the stages by `shown`. Where nobody does, as in a
program of one's own, a stage draws its bar on standard error if that is a terminal.
"""

import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

SILENCE = 12.0
"""Without a terminal a line is printed after so many seconds of silence: one in 20 s, though the machine be busy."""
TICK = 1.0
"""Seconds between two looks at the clock."""


@dataclass
class Stage:
    """One stage of a run.

    Args:
        text: The words for it.
        total: The number of its steps; `None` where nobody knows.
        unit: The unit of the steps.
        first: The number of steps that were made before, which say nothing about the rate.
        began: The time at which it began, in seconds of `time.monotonic`.
        note: The words about the last step.
    """

    text: str
    total: float | None = None
    unit: str = ""
    first: float = 0
    began: float = field(default_factory=lambda: time.monotonic())
    note: str = field(default="", init=False)

    def __post_init__(self) -> None:
        self.done = self.first

    def advance(self, note: str = "", steps: float = 1) -> None:
        """Move on.

        Args:
            note: The words about the step that has been made.
            steps: The number of steps.
        """
        self.done += steps
        self.note = note

    def count(self) -> str:
        """Tell how many steps of how many are made.

        Returns:
            The numbers; nothing for a stage that has no steps.
        """
        if self.total is None:
            return f"{self.done:.0f}{self.unit}" if self.unit else ""
        return f"{self.done:.0f}/{self.total:.0f}{self.unit}"

    def rate(self, now: float) -> str:
        """Tell how fast it goes.

        Args:
            now: The time, in seconds of `time.monotonic`.

        Returns:
            Steps in a second, or the time of a step where that is longer; nothing before the first step.
        """
        made = self.done - self.first
        if made <= 0 or now <= self.began:
            return ""
        speed = made / (now - self.began)
        return f"{speed:.1f}{self.unit}/s" if speed >= 1 or self.unit else f"{duration(1 / speed)} each"

    def left(self, now: float) -> str:
        """Tell how long the rest takes if it goes on so.

        Args:
            now: The time, in seconds of `time.monotonic`.

        Returns:
            The time left; nothing before the first step.
        """
        made = self.done - self.first
        if made <= 0 or self.total is None:
            return ""
        return f"{duration((now - self.began) / made * max(0.0, self.total - self.done))} left"

    def line(self, now: float) -> str:
        """Write a line about the stage.

        Args:
            now: The time, in seconds of `time.monotonic`.

        Returns:
            The stage, how many of how many, how fast, and how long still; or how long it has taken so far.
        """
        count = self.count().replace("/", " of ")
        rest = [self.rate(now), self.left(now)] if self.left(now) else [f"{duration(now - self.began)} so far"]
        return ", ".join([f"{self.text}: {count}" if count else self.text, *rest])


class Lines:
    """Writes a line about the innermost stage whenever nothing was written for `SILENCE` seconds.

    Args:
        write: The function that writes a line.
        clock: The function that tells the time in seconds.
        since: The time at which something was written last; by default now.
    """

    def __init__(
        self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic, since: float | None = None
    ) -> None:
        self._write = write
        self._clock = clock
        self.last = clock() if since is None else since

    def spoke(self) -> None:
        """Note that something else was written."""
        self.last = self._clock()

    def look(self) -> None:
        """Write a line if it is time to."""
        now = self._clock()
        if _open and now - self.last >= SILENCE:
            self.spoke()
            self._write(_open[-1].line(now))


_open: list[Stage] = []
_showing: list[Lines] = []
_written = time.monotonic()
"""The time of the last line of the stages that were shown before; at first that of the start."""


@contextmanager
def stage(text: str, total: float | None = None, unit: str = "", first: float = 0) -> Iterator[Callable[..., None]]:
    """Say that the block is a stage; stages may lie within each other.

    Args:
        text: The words for it.
        total: The number of its steps; `None` where nobody knows.
        unit: The unit of the steps, such as ` MB`.
        first: The number of steps that were made before.

    Yields:
        `Stage.advance`.
    """
    opened = Stage(text, total, unit, first)
    with ExitStack() as own:
        _open.append(opened)
        own.callback(_open.remove, opened)
        if not _showing and _alone():
            # Programs that have no use for it need not load it.
            from rich.console import Console

            console = Console(stderr=True, markup=False, emoji=False, highlight=False)
            if console.is_terminal:
                own.enter_context(shown(console))
        yield opened.advance
    # Steps of a stage around this one took no time meanwhile.
    for around in _open:
        around.began += time.monotonic() - opened.began


def duration(seconds: float) -> str:
    """Write a time for people.

    Args:
        seconds: The seconds.

    Returns:
        One number with its unit, or two of them.

    Examples:
        >>> duration(0.25), duration(59.6), duration(150), duration(7300)
        ('0.2 s', '1 min', '2 min', '2 h 2 min')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


@contextmanager
def shown(console: "Console", write: Callable[[str], None] | None = None) -> Iterator[Lines]:
    """Show the stages of the block: bars on a terminal, lines elsewhere.

    Args:
        console: The console.
        write: The function that writes a line where there is no terminal; by default the console prints it.

    Yields:
        The lines, which must know when something else is written.
    """
    global _written
    lines = Lines(write or console.print, since=_written)
    with ExitStack() as ending:
        _showing.append(lines)
        ending.callback(_showing.remove, lines)
        if console.is_terminal and _alone():
            from rich.live import Live

            ending.enter_context(Live(console=console, transient=True, refresh_per_second=4, get_renderable=_bars))
        else:
            ending.enter_context(_watched(lines))
        try:
            yield lines
        finally:
            _written = lines.last


def _alone() -> bool:
    """Whether this process was started by hand: those that it starts in turn do not have the terminal."""
    return multiprocessing.parent_process() is None


@contextmanager
def _watched(lines: Lines) -> Iterator[None]:
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(TICK):
            lines.look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _bars() -> "RenderableType":
    """The open stages, a line each, in the width that the terminal has; a long text gives way to the numbers."""
    from rich.progress_bar import ProgressBar
    from rich.table import Column, Table

    now = time.monotonic()
    columns = [Column(ratio=1, no_wrap=True, overflow="ellipsis"), *[Column(no_wrap=True) for _ in range(4)]]
    table = Table.grid(*columns, padding=(0, 1), expand=True)
    for one in _open.copy():
        bar = ProgressBar(total=one.total, completed=one.done, width=10, pulse=one.total is None)
        rest = one.left(now) or duration(now - one.began)
        # The console writes strings in its own way; one with several lines would move the terminal's.
        text = " ".join(f"{one.text} {one.note}".split())
        table.add_row(text, bar, one.count(), one.rate(now), rest)
    return table
