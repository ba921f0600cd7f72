"""SIGINT and SIGTERM: stop within seconds, say how to continue, exit with the status that tells which it was.

Only the standard library is imported, so that signals are minded before anything else is loaded.
"""

import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType

PATIENCE = 10.0
"""Seconds for closing files and loggers. After them the process ends whatever it is doing: foreign code can swallow the
exception of a signal, and a pool of threads first ends what it has begun."""


class Stopped(BaseException):
    """The first signal raises it in the main thread.

    It is no `Exception`, which code on the way could take for a failure of its own, and no `KeyboardInterrupt`, which
    Lightning turns into an exit of its own.

    Args:
        number: The signal's number.
    """

    def __init__(self, number: int) -> None:
        # A process of a launcher sends it to the one that started it, made anew from the same argument.
        super().__init__(number)
        self.status = 128 + number


class _Handler:
    """The first signal raises, every later one exits at once."""

    def __init__(self) -> None:
        self.folder: str | None = None
        self.ending = ExitStack()
        self.stopping = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.stopping:
            os._exit(128 + number)
        self.stopping = True
        watch = threading.Timer(PATIENCE, self.exit_now, [128 + number])
        watch.daemon = True
        watch.start()
        raise Stopped(number)

    def exit_now(self, status: int) -> None:
        self.say()
        os._exit(status)

    def say(self) -> None:
        sys.stderr.write(f"\nstopped; to continue: {self.continuation()}\n")
        sys.stderr.flush()

    def continuation(self) -> str:
        arguments = sys.argv[1:]
        if self.folder is not None:
            name = self.folder.partition("=")[0]
            arguments = [text for text in arguments if not text.startswith(f"{name}=")]
            # The command line wants all settings in a row.
            place = max((i for i, text in enumerate(arguments, 1) if "=" in text), default=len(arguments))
            arguments.insert(place, self.folder)
        return command(arguments)


_handler = _Handler()


def continue_in(folder: str | None) -> None:
    """Set the override that names the folder in which the run continues: from now on it is in the command.

    Args:
        folder: The override, such as `paths.output_dir=DIR`; `None` where the command as it was given has the folder.
    """
    _handler.folder = folder


def at_end(action: Callable[[], object]) -> None:
    """Have something done when the block of `stoppable` ends.

    Args:
        action: A function without arguments.
    """
    _handler.ending.callback(action)


def continuation() -> str:
    """Give the command that continues the run in this process.

    Returns:
        A line for a shell.
    """
    return _handler.continuation()


def command(arguments: list[str]) -> str:
    """Write a call of this program.

    Args:
        arguments: The arguments.

    Returns:
        A line for a shell.
    """
    return shlex.join(["dua", *arguments])


@contextmanager
def stoppable() -> Iterator[None]:
    """Mind the signals from here to the end of the process, and end the process where the block is stopped.

    Outside the main thread, where Python delivers no signals, the block just runs.
    """
    global _handler
    _handler = _Handler()
    try:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, _handler)
        yield
    except Stopped as stop:
        _handler.say()
        sys.exit(stop.status)
    finally:
        _handler.ending.close()
        # Nothing is left to be closed: a signal while the interpreter shuts down has nothing to raise in.
        _handler.stopping = True
