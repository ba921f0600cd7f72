"""The jobs of a sweep: finished ones are skipped, failing ones do not stop the others, all become one table.

A job tells how it went by a file in its folder, since a launcher may run it in another process:

- `done.json`: it finished; the digests of its configuration, of the content that its results are made of, pictures
  among it, and of its records.
- `failed.json`: it failed; the reason, and the command that repeats it alone.
"""

import gc
import hashlib
import json
import logging
import math
import re
import shlex
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from dua_lightning.errors import InputError
from dua_lightning.progress import shown, stage
from dua_lightning.report.terminal import Terminal
from dua_lightning.run.folders import claim, hold, quoted
from dua_lightning.run.known import refuse_unknown, refuse_unknown_of_hydra
from dua_lightning.run.settings import Settings, read
from dua_lightning.run.stopping import command, continuation, continue_in
from dua_lightning.store.files import write_text

DONE, FAILED = "done.json", "failed.json"
"""The names of the files that tell how a job went."""
BAD_INPUT = (InputError, OSError, MemoryError, HydraException, OmegaConfBaseException)
"""Errors that the user can mend: one line says what is wrong, and the exit status is 2."""
NO_MEMORY = "can't allocate memory"
"""The words of torch's error for want of memory, which has no type of its own."""
DEAD = ("UncompletedJobError", "FailedJobError", "TerminatedWorkerError")
"""Errors of submitit and joblib, which need not be installed, for a job whose process was killed."""
PLUGINS = {"joblib": "joblib", "submitit_slurm": "slurm"}
"""Launchers that are a plugin of Hydra's, and our extra that installs it."""

log = logging.getLogger(__name__)


def bad_input(error: Exception) -> bool:
    """Tell whether the input or the machine is at fault, and not the program.

    Args:
        error: The error.

    Returns:
        Whether one line for the user is enough.
    """
    return isinstance(error, BAD_INPUT) or NO_MEMORY in str(error)


def one_line(error: Exception) -> str:
    """Write an error's message as one line that names the next step.

    Args:
        error: The error.

    Returns:
        The line; for a choice that does not exist it lists those that do.
    """
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        if group == "hydra/launcher" and choice in PLUGINS:
            return f"{group}={choice} is a plugin that is not installed; pip install 'dua_lightning[{PLUGINS[choice]}]'"
        if error.options:
            return f"{group}={choice} is not a choice; {group} has {', '.join(error.options)}"
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} is missing; give {error.full_key}=VALUE"
    if isinstance(error, OSError) and error.filename:
        return (
            f"{error.filename} cannot be used ({error.strerror}); make room or get leave to write there, or choose "
            "another folder by paths.output_dir=DIR"
        )
    text = "; ".join(line.strip().rstrip(".:") for line in str(error).splitlines() if line.strip())
    if type(error).__name__ in DEAD:
        return f"a job of the sweep has died ({text.partition('; ')[0]}); to continue: {continuation()}"
    if isinstance(error, MemoryError) or NO_MEMORY in text:
        return f"there is not enough memory ({text}); lower the sizes asked for, such as model.width"
    if found := re.match(r"Could not override '([^']+)'", text):
        return _no_setting(found[1])
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override)
    return text


def _no_setting(name: str) -> str:
    """Say what was meant by the name of a setting or of a group that the configuration has not."""
    if name == "experiment":
        return "an experiment is added to the configuration by a + in front: +experiment=NAME"
    if "/" in name:
        return f"{name} is no choice here; another {name.partition('/')[0]} may have it, and --help lists all groups"
    if name == "model.head":
        return "the last layer of a network of your own is named by a + in front: +model.head=NAME"
    from dua_lightning.run.build import takes_anything, target
    from dua_lightning.run.known import names, nearest, unknown

    values: Any = OmegaConf.to_container(_composed_without(name), resolve=False)
    others = [*names(values)]
    group, _, key = name.rpartition(".")
    node = OmegaConf.select(OmegaConf.create(values), group) if group else None
    if isinstance(node, DictConfig) and isinstance(node.get("_target_"), str) and nearest(name, others) is None:
        _, parameters = target(node["_target_"], f"{group}._target_")
        if key in parameters or takes_anything(parameters):
            return f"{name} is an argument of {node['_target_']} that conf does not name; give +{name}=VALUE"
    return str(unknown(name, others))


def _composed_without(name: str) -> DictConfig:
    """The configuration of the command line without one setting, or that of no command line if this fails too."""
    given = [text for text in sys.argv[1:] if "=" in text and text.partition("=")[0] != name]
    for overrides in (given, []):
        with suppress(HydraException, OmegaConfBaseException):
            return hydra.compose("config", overrides)
    raise AssertionError


def _unreadable(override: str) -> str:
    """Say how to write an override that Hydra's grammar refuses."""
    name, sign, value = override.partition("=")
    if not sign:
        return f"{override} cannot be read; a setting has the form NAME=VALUE"
    if not override.isprintable():
        return f"Hydra cannot read {override!r}; a text with such signs is quoted for Hydra and for the shell"
    text = shlex.quote(f"{name}={QuotedString(value, Quote.double).with_quotes()}")
    return f"Hydra cannot read {override}; a text with such signs is quoted for Hydra and for the shell: {text}"


def running() -> bool:
    """Tell whether the present run is a job of a sweep.

    Returns:
        Whether it is.
    """
    return bool(HydraConfig.get().mode == RunMode.MULTIRUN)


def run_alone(cfg: DictConfig) -> float:
    """Run a configuration and note that it finished, so that a sweep into its folder need not repeat it.

    Args:
        cfg: The configuration that Hydra composed.

    Returns:
        The run's objective, for a sweeper that optimises.
    """
    # A wrong setting is refused before all that a run needs is loaded.
    with shown(Terminal()), stage("loading the program"):
        settings = _checked(cfg)
    from dua_lightning.run.pipeline import run

    folder = _folder()
    # The folder may have the note of an earlier run, which is not about this one.
    (folder / DONE).unlink(missing_ok=True)
    content = run(cfg, settings)
    write_text(folder / DONE, json.dumps(_note(cfg, folder, content)) + "\n")
    (folder / FAILED).unlink(missing_ok=True)
    return _objective(cfg, folder)


def _checked(cfg: DictConfig) -> Settings:
    """The settings; what can be refused is, and what a run needs is imported.

    What is imported stays: to look through it for garbage, now and later, would take a second.
    """
    settings = read(cfg)
    refuse_unknown_of_hydra(HydraConfig.get().overrides.hydra)
    gc.disable()
    try:
        from dua_lightning.run.checks import refuse

        refuse(settings)
        import dua_lightning.run.pipeline  # noqa: F401

        # It reads the signatures of everything that is made, Lightning's too.
        sources = HydraConfig.get().runtime.config_sources
        refuse_unknown(cfg, [Path(one.path) for one in sources if one.schema == "file"])
        return settings
    finally:
        gc.freeze()
        gc.enable()


def run_job(cfg: DictConfig) -> float:
    """Run a job unless its folder has the results already; a failure is noted there for the end of the sweep.

    Args:
        cfg: The configuration that Hydra composed.

    Returns:
        The run's objective, for a sweeper that optimises; NaN where the job failed.
    """
    folder = _folder()
    try:
        # The process that has started the sweep may be gone while its jobs are not.
        hold(folder)
        if _finished(cfg, folder):
            sys.stdout.write("\t   finished before, skipped\n")
            # Rewritten, it belongs to this sweep.
            write_text(folder / DONE, (folder / DONE).read_text(encoding="utf-8"))
            return _objective(cfg, folder)
        return run_alone(cfg)
    except BrokenPipeError:
        raise
    except Exception as error:
        known = bad_input(error)
        log.info("the job failed", exc_info=not known)
        reason = one_line(error) if known else f"{type(error).__name__}: {one_line(error)}"
        sys.stdout.write(f"\t   failed: {reason}\n")
        failure = {"reason": reason, "bad_input": known, "command": command(_alone(cfg))}
        try:
            write_text(folder / FAILED, json.dumps(failure) + "\n")
        except BAD_INPUT as full:
            _end(full)
        return math.nan


class Collect(Callback):
    """Writes `records.csv`, `summary.json` and the figures of all jobs into the sweep's folder, and prints the table.

    Then it names the jobs that failed, and exits with 2, or with 1 if one failed for another reason than its input.
    Only jobs of this very sweep count; a folder may hold those of earlier ones.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        _claim(config, "hydra.run.dir")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        _claim(config, "hydra.sweep.dir")
        self.before = {path: path.stat().st_mtime_ns for path in _notes(config)}

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        new = [path for path in _notes(config) if path.stat().st_mtime_ns != self.before.get(path)]
        try:
            _table(Path(config.hydra.sweep.dir), [path.parent for path in new if path.name == DONE])
            failures = {path.parent.name: json.loads(path.read_text()) for path in new if path.name == FAILED}
        except BAD_INPUT as error:
            _end(error)
        for name, failure in failures.items():
            sys.stderr.write(f"error: job {name} failed: {failure['reason']}; alone: {failure['command']}\n")
        if failures:
            sys.exit(2 if all(failure["bad_input"] for failure in failures.values()) else 1)


def _claim(config: DictConfig, setting: str) -> None:
    try:
        continue_in(claim(config, setting))
    except BAD_INPUT as error:
        _end(error)


def _end(error: Exception) -> NoReturn:
    """Refuse the whole sweep; from a callback, or outside a job's own errors, Hydra would let nothing else through."""
    sys.stderr.write(f"error: {one_line(error)}\n")
    sys.exit(2)


def _table(folder: Path, jobs: list[Path]) -> None:
    # Jobs in which no user is scored have no records.
    jobs = [job for job in jobs if (job / "records.csv").exists()]
    if not jobs:
        return
    from dua_lightning.report.runs import join
    from dua_lightning.report.terminal import Terminal
    from dua_lightning.run.pipeline import report

    join(jobs, folder / "records.csv")
    report(folder, f"sweep of {len(jobs)} jobs", [], None, Terminal())


def _objective(cfg: DictConfig, folder: Path) -> float:
    from dua_lightning.report.records import chunks
    from dua_lightning.report.reduce import over_seeds, reduce

    if not (folder / "records.csv").exists():
        return math.nan
    return float(over_seeds(reduce(chunks(folder / "records.csv")).draws)[str(cfg.objective)].mean())


def _folder() -> Path:
    return Path(HydraConfig.get().runtime.output_dir)


def _notes(config: DictConfig) -> list[Path]:
    folder = Path(config.hydra.sweep.dir)
    found = [*folder.glob(f"*/{DONE}"), *folder.glob(f"*/{FAILED}")]
    return sorted(found, key=lambda path: (len(path.parent.name), path.parent.name))


def _digest(cfg: DictConfig) -> str:
    """Compute the digest of the code and of every setting that the results of a job depend on."""
    # Not for help, which does without them.
    from dua_lightning.run.build import target, targets
    from dua_lightning.run.training import HARMLESS
    from dua_lightning.store.versions import version

    settings: Any = OmegaConf.to_container(cfg, resolve=True)
    # Results do not depend on their folder, on the display of a training, on tracebacks, or on which is optimised.
    settings["paths"] = settings["paths"]["data_dir"]
    for name in HARMLESS:
        settings["trainer"].pop(name, None)
    for name in ("debug", "objective"):
        settings.pop(name)
    # A module of the user's may find others only once it is imported.
    for name in (used := sorted(targets(settings))):
        target(name)
    text = json.dumps([version("dua_lightning.run.pipeline.run", *used), settings], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _finished(cfg: DictConfig, folder: Path) -> bool:
    try:
        note = json.loads((folder / DONE).read_text(encoding="utf-8"))
        if note != _note(cfg, folder, note["content"]):
            return False
    except (OSError, ValueError, LookupError, TypeError):
        return False
    from dua_lightning.run.pipeline import content

    return bool(note["content"] == content(cfg))


def _note(cfg: DictConfig, folder: Path, content: str) -> dict[str, str]:
    path = folder / "records.csv"
    records = hashlib.sha256(path.read_bytes() if path.exists() else b"").hexdigest()
    return {"configuration": _digest(cfg), "content": content, "records": records}


def _alone(cfg: DictConfig) -> list[str]:
    """Arguments that run the present job alone, in its folder and with what the sweep shares."""
    job = HydraConfig.get()
    where = [text for text in job.overrides.hydra if text.startswith("hydra.searchpath=")]
    given = [*where, *(text for text in job.overrides.task if not text.startswith("paths.output_dir="))]
    folder = Path(job.sweep.dir) / job.sweep.subdir
    return [*given, f"paths.output_dir={quoted(cfg.paths.output_dir)}", f"hydra.run.dir={quoted(str(folder))}"]
