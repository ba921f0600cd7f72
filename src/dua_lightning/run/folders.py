"""The folder of a run or a sweep: a new one is its process's own, and no two live processes share one."""

import itertools
import os
import re
import socket
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout
from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import DictConfig, OmegaConf

from dua_lightning.errors import InputError
from dua_lightning.run.stopping import at_end

LOCK = ".run.lock"
"""The name of the file by which a live process holds its folder."""

_PLAIN = re.compile(r"[A-Za-z/][\w/.-]*", re.ASCII)
_CONSTANTS = ("null", "true", "false", "nan", "inf")
"""Words that Hydra does not read as texts."""


def claim(config: DictConfig, setting: str) -> str | None:
    """Make the folder of a run or a sweep, and hold it against other processes.

    Where the time of day is in the folder's name, the folder is new: if another process has made it already, this one
    gets another name, such as `12-30-00_1`. Any other folder may be used again, but not by two processes at once.

    Args:
        config: The configuration that Hydra composed; the folder is set in it, and for the jobs of a sweep as well.
        setting: The setting that says the folder: `hydra.run.dir` or `hydra.sweep.dir`.

    Returns:
        The override that names a new folder, so that it can be used again; `None` for another one.

    Raises:
        InputError: Another live process uses the folder.
        OSError: The folder cannot be made.
    """
    # Whatever is resolved for a name leaves its trace there, the time too.
    OmegaConf.clear_cache(config)
    asked = str(OmegaConf.select(config, setting))
    new = "now" in OmegaConf.get_cache(config)
    folder = Path(os.path.expanduser(asked))
    if new:
        folder = _made(folder)
    hold(folder)
    named = [place for place in ("paths.output_dir", setting) if OmegaConf.select(config, place) == asked]
    if folder != Path(asked):
        for place in named:
            OmegaConf.update(config, place, literal(str(folder)))
            # The jobs of a sweep are composed anew from the overrides.
            overrides = config.hydra.overrides
            (overrides.hydra if place == setting else overrides.task).append(f"{place}={quoted(str(folder))}")
    return f"{named[0]}={quoted(str(folder))}" if new else None


def hold(folder: Path) -> None:
    """Hold a folder against other processes until the run ends, however it does; a folder that is missing is made.

    Args:
        folder: The folder.

    Raises:
        InputError: Another live process holds it.
        OSError: The folder or its lock cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder.absolute() / LOCK
    # One process may use a folder several times, one run after another.
    lock = FileLock(file, is_singleton=True)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        holder = ""
        with suppress(OSError):
            holder = file.read_text(encoding="utf-8").strip()
        raise InputError(
            f"{folder} is used by another run{holder and f' ({holder})'}; wait until that one has ended, or choose "
            "another folder by paths.output_dir=DIR"
        ) from None
    at_end(lock.release)
    file.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")


def quoted(text: str) -> str:
    """Write a text as a value of Hydra's grammar that stands for exactly this text.

    Args:
        text: The text.

    Returns:
        The text as it is where Hydra reads it so, otherwise in quotes.
    """
    if _PLAIN.fullmatch(text) and text.lower() not in _CONSTANTS:
        return text
    return QuotedString(literal(text), Quote.double).with_quotes()


def literal(text: str) -> str:
    """Write a text for OmegaConf, which then finds no interpolation in it.

    Args:
        text: The text.

    Returns:
        The text with a backslash before each `${`, and backslashes before that doubled.
    """
    return re.sub(r"(\\*)\$\{", lambda found: f"{2 * found[1]}\\${{", text)


def _made(folder: Path) -> Path:
    """Make a folder that nobody has made, under this name or the next free one."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count():
        made = folder.with_name(f"{folder.name}_{number}") if number else folder
        with suppress(FileExistsError):
            made.mkdir()
            return made
    raise AssertionError
