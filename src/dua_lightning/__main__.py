"""The command line: `python -m dua_lightning`, or `dua`.

Only Hydra is imported here, so that help and configuration errors answer before torch is loaded.
"""

import os
import sys
import traceback
from pathlib import Path
from typing import NoReturn

import hydra
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from dua_lightning.errors import InputError

_PACKAGE = Path(__file__).resolve().parent
# A wheel carries conf/ inside the package; a checkout has it at the top.
CONF = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parents[1] / "conf"


_TRACEBACK = os.environ.get("HYDRA_FULL_ERROR", "0").lower() not in ("0", "", "false")


_EXPECTED = (InputError, OSError, MemoryError, HydraException, OmegaConfBaseException)
_MEMORY = "can't allocate memory"
"""What a run may raise because of what it was given, or where it was run; torch has no type for the last."""


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _app(cfg: DictConfig) -> None:
    from dua_lightning.pipeline import run

    try:
        run(cfg)
    except Exception as error:
        if cfg.get("debug") or _TRACEBACK or not (isinstance(error, _EXPECTED) or _MEMORY in str(error)):
            raise
        # SystemExit passes through Hydra, which would print lines of its own around any other exception.
        _refuse(error)


def main() -> None:
    """Run the command line; bad input ends in one line on standard error and exit status 2."""
    # torch's threads spin for microseconds when they wait for each other, and then sleep. Without spinning, the many
    # small operations of an importance take three times as long; with the default's milliseconds, a small network
    # trains ten times slower where another program wants the cores too. Read when torch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    # Hydra then raises what it cannot compose, instead of printing it in its own way and exiting with 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        _app()
    except (HydraException, OmegaConfBaseException) as error:
        if _TRACEBACK:
            raise
        _refuse(error)
    except Exception as error:
        if _TRACEBACK or _ours(error):
            raise
        _refuse(error)
    except KeyboardInterrupt:
        print("\ninterrupted; finished experts and records are kept in the run's folder", file=sys.stderr)
        sys.exit(130)


def _ours(error: Exception) -> bool:
    """Whether it was raised within the program; otherwise Hydra could not read the command line or make the folder."""
    frames = traceback.extract_tb(error.__traceback__)
    return any(Path(frame.filename).is_relative_to(_PACKAGE) for frame in frames[1:])


def _refuse(error: Exception) -> NoReturn:
    print(f"error: {_one_line(error)}", file=sys.stderr)
    sys.exit(2)


def _one_line(error: Exception) -> str:
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        return f"{group}={choice} is not a choice; {group} has {', '.join(error.options)}"
    text = "; ".join(line.strip().rstrip(".:") for line in str(error).splitlines() if line.strip())
    if isinstance(error, OSError) and error.filename:
        return (
            f"{error.filename} cannot be used ({error.strerror}); make room or get leave to write there, or choose "
            "another folder by paths.output_dir=DIR"
        )
    if isinstance(error, MemoryError) or _MEMORY in str(error):
        return f"there is not enough memory ({text}); lower the sizes asked for, such as model.width"
    return f"{text}; --cfg job shows every setting" if text.startswith("Could not override") else text


if __name__ == "__main__":
    main()
