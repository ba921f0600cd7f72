"""The provenance of a run: everything that is needed to make it again."""

import json
import platform
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from torch import nn

from dua_lightning import __version__
from dua_lightning.data.benchmark import Benchmark
from dua_lightning.params import batch_norms, body_names
from dua_lightning.report.facts import Facts, TaskFacts
from dua_lightning.store.files import write_text

PACKAGES = ("torch", "torchvision", "lightning", "hydra-core", "numpy", "mlxtend", "scikit-image", "scikit-learn")
"""The packages whose versions are written down."""


def write(cfg: DictConfig, folder: Path) -> None:
    """Write `config.yaml`, every interpolation resolved, and `environment.json`: command, versions, commit, machine.

    The command of a job of a sweep is the one that runs this job alone.

    Args:
        cfg: The configuration of the run.
        folder: The run's folder.

    Raises:
        InputError: A file cannot be written.
    """
    write_text(folder / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
    hydra = HydraConfig.get()
    # A launcher runs a job of a sweep in a process with a command line of its own.
    where = [text for text in hydra.overrides.hydra if text.startswith("hydra.searchpath=")]
    arguments = [*where, *hydra.overrides.task] if hydra.mode == RunMode.MULTIRUN else sys.argv[1:]
    found = {"command": ["dua", *arguments], **environment()}
    write_text(folder / "environment.json", json.dumps(found, indent=2) + "\n")


def facts(benchmark: Benchmark, net: nn.Module, labels: Iterable[str]) -> Facts:
    """Give what reports need to know of a benchmark and a network.

    Args:
        benchmark: The benchmark.
        net: The network.
        labels: The labels of the rows.

    Returns:
        The facts.
    """
    parameters = dict(net.named_parameters())
    return Facts(
        tuple(TaskFacts(task.name, tuple(benchmark.categories[task.classes])) for task in benchmark.tasks),
        len(benchmark.users),
        tuple(benchmark.shape),
        sum(parameters[name].nbytes for name in set(body_names(net).values())),
        bool(batch_norms(net)),
        tuple(labels),
    )


def environment() -> dict[str, Any]:
    """Give versions, commit and machine.

    Returns:
        Plain values by name.
    """
    return {
        "dua_lightning": __version__,
        "git_commit": _git("rev-parse", "HEAD"),
        "git_modified": bool(_git("status", "--porcelain")),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_threads": torch.get_num_threads(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(*command: str) -> str | None:
    """Git's answer for the checkout that this package runs from; nothing for an installed wheel."""
    top = Path(__file__).resolve().parents[3]
    if not (top / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", "-C", str(top), *command], capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
