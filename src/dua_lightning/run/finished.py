"""The settings of a finished run, as its folder keeps them: whoever reads them can make its `Draws` anew."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from dua_lightning.errors import InputError
from dua_lightning.run.settings import SeedSettings
from dua_lightning.store.files import write_text

SETTINGS, ENVIRONMENT = "settings.json", "environment.json"
"""The files of a run's folder that hold its settings, and its command and versions."""


def write(seeds: Sequence[SeedSettings], folder: Path) -> None:
    """Write `settings.json`: the typed settings of every seed, and of every row where a method has several.

    Args:
        seeds: The settings of each seed.
        folder: The run's folder.

    Raises:
        InputError: The file cannot be written.
    """
    found = [{**asdict(seed), "store_dir": str(seed.store_dir.absolute())} for seed in seeds]
    write_text(folder / SETTINGS, json.dumps(found, indent=1) + "\n")


def read(folder: Path) -> tuple[SeedSettings, ...]:
    """Read the settings of a run.

    Args:
        folder: The run's folder.

    Returns:
        The settings of each seed.

    Raises:
        InputError: It is no folder of a run, that of a sweep, or that of a run of an earlier version.
    """
    path = folder / SETTINGS
    if not path.is_file():
        jobs = sorted(job.parent.name for job in folder.glob(f"*/{SETTINGS}"))
        if jobs:
            raise InputError(f"{folder} is the folder of a sweep; name one of its runs in it: {', '.join(jobs)}")
        raise InputError(f"{folder} is not the folder of a run that has {SETTINGS}; {again(folder)}")
    try:
        return TypeAdapter(tuple[SeedSettings, ...]).validate_python(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"{path} cannot be read ({reason}); {again(folder)}") from error


def environment(folder: Path) -> dict[str, Any]:
    """Read command, versions and commit of a run.

    Args:
        folder: The run's folder.

    Returns:
        Plain values by name; none where the folder does not have them.
    """
    try:
        found = json.loads((folder / ENVIRONMENT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def again(folder: Path) -> str:
    """Say how to repeat a run, as the end of a message.

    Args:
        folder: The run's folder.

    Returns:
        The words, with the command where it is known.
    """
    command = environment(folder).get("command")
    return f"run again, in the same working folder: {shlex.join(command)}" if command else "name a run, or run again"
