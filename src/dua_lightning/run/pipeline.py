"""One run: configuration in, records, table and figures out."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from dua_lightning.adapt.cost import Cost
from dua_lightning.data.benchmark import Benchmark
from dua_lightning.engines import Engine
from dua_lightning.errors import InputError
from dua_lightning.report import figures, loggers, provenance, records, tables
from dua_lightning.report.display import Display
from dua_lightning.report.loggers import RunLogger
from dua_lightning.report.records import CostRecord, Record
from dua_lightning.report.reduce import reduce
from dua_lightning.report.stream import Stream
from dua_lightning.run.build import build, check, target
from dua_lightning.run.cells import Cells
from dua_lightning.run.rows import Row, expand
from dua_lightning.tasks import Task

MOST_THREADS = 1024
"""More than any processor has; the system refuses a process with far more."""

SHOWN = 12
"""Users in the picture of domains."""


def run(cfg: DictConfig) -> None:
    """Train, measure, merge, adapt and evaluate every row for every seed; see `conf/config.yaml`.

    Everything is written to the run's folder; the table and the files' names are printed. Raises `InputError`.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    seeds = _seeds(cfg.seed)
    _set_threads(cfg.threads)
    configs = expand(cfg)
    if not configs:
        raise InputError("no row of the method agrees with the importance and adapt asked for; leave one of them out")
    provenance.write(cfg, folder)
    console = Console(soft_wrap=True)
    resolved: Any = OmegaConf.to_container(cfg, resolve=True)
    logger = _logger(resolved, folder, resolved["method"].get("label", loggers.SEVERAL))
    try:
        pictures: list[Path] = []
        display = Display(console)
        engine: Engine = build(cfg.engine, "engine", Engine)
        with engine, Stream(folder / "records.csv") as accuracies, Stream(folder / "costs.csv") as costs:
            computed, seconds = 0, 0.0
            with display.progress:
                for seed in seeds:
                    cells = Cells(configs, seed, display, logger, engine)
                    if not pictures:
                        pictures.append(figures.gallery(_first_users(cells.benchmark), folder / "figures/domains.png"))
                    for user, iteration, results in cells.results():
                        for config, row, result in zip(configs, cells.rows, results, strict=True):
                            accuracies.write(draw_records(config, row, seed, user, iteration, result.R))
                            costs.write(_costs(config, row, seed, user, iteration, result.costs))
                    computed, seconds = computed + cells.computed, seconds + cells.seconds
        cost = tables.UserCost(computed, seconds / computed) if computed else None
        report(folder, str(cfg.name), pictures, logger, console, cost)
    finally:
        loggers.close(logger)


def _logger(config: dict[str, Any], folder: Path, row: str) -> RunLogger | None:
    node = config["logger"]
    if node["_target_"] is None:
        return None
    kind, parameters = target(node["_target_"], "logger._target_")
    settings = {
        key: check(value, parameters[key].annotation, f"logger.{key}") if key in parameters else value
        for key, value in node.items()
        if key != "_target_"
    }
    return loggers.start(kind, settings, folder, config, row)


def _first_users(benchmark: Benchmark) -> Benchmark:
    return replace(benchmark, users=benchmark.users[:SHOWN])


def _set_threads(value: Any) -> None:
    threads = check(value, int | None, "threads")
    if threads is None:
        return
    if not 1 <= threads <= MOST_THREADS:
        raise InputError(
            f"threads={threads} cannot be used: it is at least 1 and at most {MOST_THREADS}, or null for PyTorch's own "
            "choice"
        )
    torch.set_num_threads(threads)


def _seeds(value: Any) -> list[int]:
    if not OmegaConf.is_list(value):
        return [check(value, int, "seed")]
    seeds: list[int] = check(value, list[int], "seed")
    if not seeds or len(set(seeds)) < len(seeds):
        raise InputError(f"seed={seeds} cannot be used: a list of seeds has at least 1, each once")
    return seeds


def report(
    folder: Path,
    name: str,
    pictures: list[Path],
    logger: RunLogger | None,
    console: Console,
    cost: tables.UserCost | None = None,
) -> None:
    """Summary, table and figures from the records in `folder`; prints the table and where everything lies.

    Of many users the spread is shown, with the `cost` of each.
    """
    path = folder / "records.csv"
    reduced, costs = reduce(records.chunks(path)), records.costs(folder / "costs.csv")
    tables.write_summary(reduced, costs, cost, folder / "summary.json")
    pictures = [*pictures, *figures.draw_all(reduced, folder / "figures")]
    loggers.results(logger, reduced, path, pictures)
    console.print(tables.table(reduced, name, costs, cost))
    if len(costs) and not reduced.many:
        console.print(tables.costs(costs))
    files = [path, folder / "summary.json", *([folder / "costs.csv"] if len(costs) else []), *pictures]
    for written in files:
        console.print(f"  {written}")


def draw_records(config: DictConfig, row: Row, seed: int, user: str, iteration: int, R: np.ndarray) -> list[Record]:
    """One record for each accuracy that the row has for this draw."""
    whose = _whose(config, row, seed, user, iteration)
    own = {"method": row.method, "importance": row.importance, "fidelity": config.fidelity.name}
    return [
        Record(**whose, **own, after=int(t) + 1, on=int(j) + 1, accuracy=float(R[t, j]))
        for t, j in np.argwhere(~np.isnan(R))
    ]


def _costs(
    config: DictConfig, row: Row, seed: int, user: str, iteration: int, spent: list[tuple[Task, Cost]]
) -> list[CostRecord]:
    whose = _whose(config, row, seed, user, iteration)
    return [CostRecord(**whose, task=task.name, **asdict(cost)) for task, cost in spent]


def _whose(config: DictConfig, row: Row, seed: int, user: str, iteration: int) -> dict[str, Any]:
    """What both kinds of records say of a row and a draw."""
    return {
        "data": config.data.name,
        "model": config.model.name,
        "adapt": row.adapt,
        "label": row.label,
        "user": user,
        "iteration": iteration,
        "seed": seed,
    }
