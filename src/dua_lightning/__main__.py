"""The command line: `python -m dua_lightning`, or `dua`.

Nothing heavy is imported here, so that help and configuration errors answer before torch is loaded, and signals are
minded before Hydra is.
"""

import os
import platform
import select
import signal
import sys
import traceback
from collections.abc import Callable
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from dua_lightning import __version__
from dua_lightning.errors import InputError
from dua_lightning.report.characters import forgive, writable
from dua_lightning.run.stopping import stoppable

if TYPE_CHECKING:
    from omegaconf import DictConfig

_PACKAGE = Path(__file__).resolve().parent

CONF = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parents[1] / "conf"
"""The folder of the configuration: a wheel carries it inside the package; a checkout has it at the top."""

COMMANDS = (
    "init",
    "store",
    "report",
    "compare",
    "ledger",
    "choose",
    "rates",
    "export",
    "predict",
    "privacy",
    "serve",
    "device",
    "dashboard",
)
"""First words of the command line that name a command; with anything else it is a run."""

# The variable has a second name: `main` gives the first one to Hydra, and processes of a launcher inherit both.
_TRACEBACK = os.environ.get("DUA_TRACEBACK", os.environ.get("HYDRA_FULL_ERROR", "0")).lower() not in (
    "0",
    "",
    "false",
)


def _app(cfg: "DictConfig") -> float:
    """Give a sweeper of Hydra's the run's objective."""
    # A launcher may have begun another process.
    forgive()
    from dua_lightning.run import sweep

    if cfg.get("debug") or _TRACEBACK:
        return sweep.run_alone(cfg)
    # SystemExit passes through Hydra, which would print lines of its own around any other exception.
    try:
        return (sweep.run_job if sweep.running() else sweep.run_alone)(cfg)
    except BrokenPipeError:
        _end_without_reader()
    except Exception as error:
        if not sweep.bad_input(error):
            raise
        _refuse(error)


def main() -> None:
    """Run the command line; bad input ends in one line on standard error and exit status 2.

    SIGINT and SIGTERM end it with 130 and 143 and a line that says how to continue.
    """
    # torch's threads spin for microseconds when they wait for each other, and then sleep. Without spinning, the many
    # small operations of an importance take three times as long; with the default's milliseconds, a small network
    # trains ten times slower where another program wants the cores too. The variable is read when torch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")
    # The command `dua` finds modules in the working folder too, as `python -m` does.
    if not sys.flags.safe_path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    # Hydra then raises what it cannot compose, instead of printing it in its own way and exiting with 1.
    os.environ |= {"HYDRA_FULL_ERROR": "1", "DUA_TRACEBACK": str(int(_TRACEBACK))}
    forgive()
    with stoppable():
        try:
            try:
                _run()
            finally:
                sys.stdout.flush()
        except BrokenPipeError:
            _end_without_reader()


def _run() -> None:
    if sys.argv[1:2] and sys.argv[1] in COMMANDS:
        try:
            sys.exit(_command(sys.argv[1], sys.argv[2:]))
        except InputError as error:
            _refuse(error)

    if "--version" in sys.argv[1:]:
        packages = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "lightning", "hydra-core"))
        print(f"dua_lightning {__version__} (Python {platform.python_version()}, {packages})")
        return

    if len(sys.argv) == 3 and sys.argv[1] in ("-sc", "--shell-completion"):
        from dua_lightning.commands import completion

        lines, whole = completion.answer(sys.argv[2], COMMANDS, _command)
        print(*lines, sep="\n")
        if whole:
            return

    if {"--help", "-h"} & {*sys.argv[1:]}:
        from dua_lightning.commands.help import text

        print(text(CONF, sys.argv[1:]))
        return

    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(_app)()
    except (HydraException, OmegaConfBaseException) as error:
        if _TRACEBACK:
            raise
        # The setting that was meant is looked for in the configuration.
        GlobalHydra.instance().clear()
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            _refuse(error)
    except Exception as error:
        if _TRACEBACK or _ours(error) or isinstance(error, BrokenPipeError):
            raise
        _refuse(error)


def _command(name: str, arguments: list[str]) -> int:
    main: Callable[..., int] = import_module(f"dua_lightning.commands.{name}").main
    return main(arguments, CONF / "paths" / "default.yaml") if name == "store" else main(arguments)


def _ours(error: Exception) -> bool:
    """Whether it was raised within the program; otherwise Hydra could not read the command line or make the folder."""
    frames = traceback.extract_tb(error.__traceback__)
    return any(Path(frame.filename).is_relative_to(_PACKAGE) for frame in frames[1:])


def _end_without_reader() -> NoReturn:
    """End as programs do that are piped into `head`; raises the broken pipe if it is not standard output."""
    poll = select.poll()
    poll.register(sys.stdout, select.POLLERR)
    if not poll.poll(0):
        raise
    # Python flushes once more at its end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(128 + signal.SIGPIPE)


def _refuse(error: Exception) -> NoReturn:
    from dua_lightning.run.sweep import one_line

    line = writable(one_line(error), sys.stderr.encoding).replace("\n", "\\n")
    print(f"error: {line}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
