"""The command line in a folder of its own, where it reaches nothing else and has little memory."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.helpers import process
from tests.helpers.cli import Done
from tests.helpers.process import Running

ALONE = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "DUA_STORE_DIR": "store"}
"""Nothing listens there: a download fails at once. What is stored lies below the working directory."""

MEMORY = 8 << 30
"""Bytes of address space of a child; a program that has loaded torch begins with five gibibytes."""


def start(*arguments: str, cwd: Path, fault: str | None = None, first: Sequence[str] = ()) -> Running:
    """`python -m dua_lightning ARGUMENTS` in `cwd`, with the `fault` of `tests.faults.inject`."""
    more: Mapping[str, str] = {} if fault is None else {"DUA_FAULT": fault}
    injected = [] if fault is None else ["tests.faults.inject"]
    return process.start(*arguments, cwd=cwd, more={**ALONE, **more}, first=[*injected, *first], memory=MEMORY)


def run(*arguments: str, cwd: Path, fault: str | None = None, first: Sequence[str] = (), seconds: float = 120) -> Done:
    """The same, waited for."""
    return start(*arguments, cwd=cwd, fault=fault, first=first).wait(seconds)
