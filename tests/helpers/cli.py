"""The command line as a user runs it, and a size of the digits benchmark that takes a second."""

import signal
import sys
from dataclasses import dataclass

import pytest

from dua_lightning.__main__ import main
from tests.helpers.figures import unpainted

TINY = (
    "data=digits",
    "data.tasks=2",
    "data.server_per_class=6",
    "data.user_per_class=4",
    "trainer.max_epochs=1",
    "model.width=8",
)


@dataclass(frozen=True)
class Done:
    """The end of a run: exit status, standard output and standard error."""

    status: int
    out: str
    err: str


def refused(done: Done) -> bool:
    """Whether it ended as bad input must: in one line, and with status 2."""
    lines = done.err.splitlines()
    return done.status == 2 and len(lines) == 1 and lines[0].startswith("error: ") and "Traceback" not in done.out


def run(*arguments: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Done:
    """`python -m dua_lightning ARGUMENTS` within this process; its figures are not painted."""
    monkeypatch.setattr(sys, "argv", ["dua_lightning", *arguments])
    capfd.readouterr()
    handlers = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        with unpainted():
            main()
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1
    finally:
        # The command line minds signals to the end of its process.
        for number, handler in handlers:
            signal.signal(number, handler)
    captured = capfd.readouterr()
    return Done(status, captured.out, captured.err)
