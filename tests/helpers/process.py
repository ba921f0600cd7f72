"""The command line in a process of its own, forked from one that has loaded everything once.

A child differs from `python -m dua_lightning` in what it need not load, and in nothing else: it has its own working
directory, environment, limits and standard streams, and may be killed. Loading takes seconds of a processor, and most
tests need less.
"""

import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from multiprocessing import connection, forkserver
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Lock

from tests.helpers.cli import Done

ROOT = Path(__file__).resolve().parents[2]

ALONE = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "30000"}
"""The environment of the process that children are forked from: it starts no thread when it loads numpy."""

_ONE_AT_A_TIME = Lock()
"""A process that is started asks all others how they ended, and what one thread has been told another never is."""


@dataclass(frozen=True)
class Running:
    """A command line that is running; its streams go to files in `streams`, which `wait` removes."""

    process: BaseProcess
    streams: Path

    @property
    def pid(self) -> int:
        pid = self.process.pid
        assert pid is not None
        return pid

    @property
    def ended(self) -> bool:
        return bool(connection.wait([self.process.sentinel], 0))

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait(self, seconds: float = 120) -> Done:
        """Wait for its exit status; a negative one is the signal that ended it. Raises `TimeoutError`, and kills it."""
        ended = connection.wait([self.process.sentinel], seconds)
        if not ended:
            self.process.kill()
        with _ONE_AT_A_TIME:
            self.process.join()
        out, err = ((self.streams / name).read_text(errors="replace") for name in ("out", "err"))
        shutil.rmtree(self.streams)
        if not ended:
            raise TimeoutError(f"still running after {seconds} seconds\n{out}\n{err}")
        assert self.process.exitcode is not None
        return Done(self.process.exitcode, out, err)


def start(
    *arguments: str,
    cwd: Path,
    more: Mapping[str, str] | None = None,
    first: Sequence[str] = (),
    memory: int | None = None,
) -> Running:
    """`python -m dua_lightning ARGUMENTS` in `cwd`.

    Args:
        arguments: Of the command line.
        cwd: Its working directory.
        more: What is in its environment besides that of this process.
        first: Modules that are loaded before it starts.
        memory: Bytes of address space that it may use.
    """
    streams = Path(tempfile.mkdtemp())
    environment = {**os.environ, **(more or {})}
    process = _context().Process(target=_main, args=(list(arguments), cwd, environment, streams, list(first), memory))
    with _ONE_AT_A_TIME:
        process.start()
    return Running(process, streams)


def spawn(*arguments: str, cwd: Path, seconds: float = 120, more: Mapping[str, str] | None = None) -> Done:
    """The same, waited for."""
    return start(*arguments, cwd=cwd, more=more).wait(seconds)


@cache
def _context() -> ForkServerContext:
    """Started once; it must not inherit the threads of the process that tests run in."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.helpers.loaded"])
    before = dict(os.environ)
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    os.environ.update(ALONE, PYTHONPATH=path)
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return context


def _main(
    arguments: list[str], cwd: Path, environment: dict[str, str], streams: Path, first: list[str], memory: int | None
) -> None:
    for stream, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(streams / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), stream)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["dua_lightning", *arguments]
    if memory is not None:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    for module in first:
        import_module(module)
    from dua_lightning.__main__ import main

    main()
