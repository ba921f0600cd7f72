"""Tab completion in a shell: the commands and the words of each, beside the settings, which Hydra completes.

Hydra's script in the shell runs `dua -sc query=SHELL` to ask what could follow the line in `COMP_LINE`. The shell keeps
what begins as its last word does, and completes names of files where nothing is left.
"""

import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path

from dua_lightning.errors import InputError

FLAGS = ("--help", "--version", "--multirun", "--cfg")
"""Options of the program itself."""


def answer(request: str, commands: Sequence[str], run: Callable[[str, list[str]], int]) -> tuple[list[str], bool]:
    """Give what this program answers a shell.

    Args:
        request: The word after `-sc`: `install=SHELL`, `query=SHELL` or `uninstall=SHELL`.
        commands: The commands.
        run: Runs one of them with its arguments.

    Returns:
        The lines, and whether they are all, because a command is being typed. Otherwise Hydra adds its own.
    """
    if request == "install=fish":
        # Hydra's script for fish alone never completes names of files.
        return [f"complete -c {Path(sys.argv[0]).name} -n '__fish_seen_subcommand_from {' '.join(commands)}' -F"], False
    if not request.startswith("query="):
        return [], False
    # A shell would show an error in the middle of the line that is being typed.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    _, *before, last = re.split(r"\s+", os.environ["COMP_LINE"].lstrip())
    if before and before[0] in commands:
        return _words(last, lambda: run(before[0], [*before[1:], "--help"])), True
    if last.startswith("-"):
        return [*FLAGS], False
    return [] if before else [*commands], False


def _words(last: str, print_help: Callable[[], object]) -> list[str]:
    """The options that the usage in a command's help has if the last word begins as one, else its subcommands."""
    text = io.StringIO()
    with redirect_stdout(text), suppress(SystemExit, InputError):
        print_help()
    usage = text.getvalue().partition("\n\n")[0]
    if last.startswith("-"):
        return [*re.findall(r"--[\w-]+", usage), "--help"]
    return [word for found in re.findall(r"\{([\w,]+)\}\s+\.\.\.", usage) for word in found.split(",")]
