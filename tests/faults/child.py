"""The command line in a process of its own, forked from one that has loaded everything once.

A child differs from `python -m dua_lightning` in what it need not load, and in nothing else: it has its own working
directory, environment, limits and standard streams, and may be killed.
"""

import multiprocessing
import os
import resource
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from multiprocessing import connection, forkserver
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Lock
from typing import Any

from tests.helpers.cli import Done

ROOT = Path(__file__).resolve().parents[2]

ALONE = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "DUA_STORE_DIR": "store"}
"""Nothing listens there: a download fails at once. What is stored lies below the working directory."""

PREPARING = {"DUA_FAULT": "tests.faults.inject", "DUA_SHORT": "tests.faults.short"}
"""What is loaded into a child before it starts where its environment has the name."""

MEMORY = 8 << 30
"""Bytes of address space of a child; a program that has loaded torch begins with five gibibytes."""

_ONE_AT_A_TIME = Lock()
"""A process that is started asks all others how they ended, and what one thread has been told another never is."""


@cache
def _context() -> ForkServerContext:
    """Started once; it must not inherit the threads of the process that tests run in."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.faults.loaded"])
    before = dict(os.environ)
    os.environ.update(environment())
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return context


def environment() -> dict[str, str]:
    """Of a process that finds these tests, goes nowhere, and starts no thread when it loads numpy."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, **ALONE, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"}


def start(arguments: Sequence[str], cwd: Path, more: Mapping[str, str] | None = None) -> BaseProcess:
    """`python -m dua_lightning ARGUMENTS` in `cwd`, with `more` in its environment.

    Its streams go to `out.txt` and `err.txt` beside `cwd`.
    """
    process = _context().Process(target=_main, args=(list(arguments), cwd, dict(more or {})))
    with _ONE_AT_A_TIME:
        process.start()
    return process


def wait(process: BaseProcess, cwd: Path, seconds: float = 120) -> Done:
    """How the child ended; a negative status is the signal that ended it."""
    ended = connection.wait([process.sentinel], seconds)
    if not ended:
        process.kill()
    with _ONE_AT_A_TIME:
        process.join()
    if not ended:
        raise TimeoutError(f"still running after {seconds} seconds")
    return Done(process.exitcode, *((cwd.parent / name).read_text(errors="replace") for name in ("out.txt", "err.txt")))


def run(*arguments: str, cwd: Path, more: Mapping[str, str] | None = None, seconds: float = 120) -> Done:
    return wait(start(arguments, cwd, more), cwd, seconds)


def _main(arguments: list[str], cwd: Path, more: dict[str, str]) -> Any:
    for stream, name in ((1, "out.txt"), (2, "err.txt")):
        os.dup2(os.open(cwd.parent / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), stream)
    os.chdir(cwd)
    os.environ.update(more)
    sys.argv = ["dua_lightning", *arguments]
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for name, module in PREPARING.items():
        if name in more:
            import_module(module)
    from dua_lightning.__main__ import main

    main()
