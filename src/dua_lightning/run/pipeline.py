"""One run: configuration in, records, table and figures out."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from dua_lightning.adapt.base import moments
from dua_lightning.adapt.cost import Cost
from dua_lightning.data.benchmark import Benchmark
from dua_lightning.engines import Engine
from dua_lightning.privacy.release import Sent
from dua_lightning.privacy.where import MergeCost
from dua_lightning.progress import stage
from dua_lightning.report import facts, figures, loggers, records, tables
from dua_lightning.report.display import Display
from dua_lightning.report.loggers import RunLogger
from dua_lightning.report.records import CostRecord, MergeRecord, Record, ReleaseRecord
from dua_lightning.report.reduce import reduce
from dua_lightning.report.stream import Stream
from dua_lightning.report.terminal import Terminal
from dua_lightning.report.verdict import verdict
from dua_lightning.run import finished, provenance
from dua_lightning.run.build import Choice, check, target
from dua_lightning.run.draws import Draws
from dua_lightning.run.results import Results
from dua_lightning.run.rows import Row, make, rows
from dua_lightning.run.settings import SeedSettings, Settings, read
from dua_lightning.store.store import digest
from dua_lightning.tasks import Task

SHOWN = 12
"""The number of users in the picture of domains."""
NOT_SCORED = (
    "no user has labels of every task, so that all were personalised and none was scored: there is no table; to see "
    "whether it helps, put pictures of some users into folders of their categories"
)
"""The end of a run that has no accuracies."""


def run(cfg: DictConfig, settings: Settings) -> str:
    """Train, measure, merge, adapt and evaluate every row for every seed; see `conf/config.yaml`.

    Everything is written to the run's folder; the table and the files' names are printed.

    Args:
        cfg: The configuration that Hydra composed.
        settings: What `read` makes of it.

    Returns:
        The digest of everything that the results are made of, pictures and weights among it; see `content`.

    Raises:
        InputError: A setting or a file cannot be used.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    # On a GPU, PyTorch's convolutions round their inputs to TF32 unless told otherwise; 32-true means float32.
    torch.backends.cudnn.allow_tf32 = False
    provenance.write(cfg, folder)
    finished.write(settings.seeds, folder)
    console = Terminal()
    labels = [row.label for row in rows(settings.seeds[0])]
    label = labels[0] if len(labels) == 1 else loggers.SEVERAL
    with Display(console), stage("opening the logger"):
        logger = _logger(settings.logger, folder, settings.everything, label)
    try:
        pictures: list[Path] = []
        engine: Engine = settings.engine.build(Engine)
        with (
            Display(console) as display,
            engine,
            Stream(folder / "records.csv") as accuracies,
            Stream(folder / "costs.csv") as costs,
            Stream(folder / "releases.csv") as releases,
            Stream(folder / "merges.csv") as merges,
            Stream(folder / "trainings.csv") as trainings,
        ):
            computed, seconds = 0, 0.0
            contents: list[str] = []
            for of_seed in settings.seeds:
                results = Results(of_seed, display, logger, engine, trainings)
                if not pictures:
                    for line in results.notes():
                        display.say(line)
                    names = [make(of_row).label for of_row in of_seed.rows]
                    facts.write(provenance.facts(results.benchmark, results.net, names), folder)
                    shown = _first_users(results.benchmark)
                    pictures.append(figures.gallery(shown, folder / "figures/domains.png"))
                for user, iteration, of_rows in results.by_draw():
                    for row, result in zip(results.rows, of_rows, strict=True):
                        accuracies.write(draw_records(of_seed, row, user, iteration, result.R))
                        costs.write(_costs(of_seed, row, user, iteration, result.costs))
                        releases.write(_releases(of_seed, row, user, iteration, results.benchmark.tasks, result.sent))
                        merges.write(_merges(of_seed, row, user, iteration, result.merging))
                computed, seconds = computed + results.computed, seconds + results.seconds
                contents.append(results.content)
        for stream in (accuracies, costs, releases, merges):
            if not stream.begun:
                # Those of an earlier run in this folder are not this one's.
                stream.path.unlink(missing_ok=True)
        cost = tables.UserCost(computed, seconds / computed) if computed else None
        with Display(console), stage("drawing the figures"):
            report(folder, settings.name, pictures, logger, console, cost, list(HydraConfig.get().overrides.task))
    finally:
        # A service may still be sent what was logged.
        with Display(console), stage("closing the logger"):
            loggers.close(logger)
    return digest(*contents)


def content(cfg: DictConfig) -> str:
    """Compute the digest of everything that the results of a configuration would be made of, without making any.

    The pictures are read for it. For the embedded digits this takes a second.

    Args:
        cfg: The configuration that Hydra composed.

    Returns:
        The digest that `run` returns.

    Raises:
        InputError: A setting or a file cannot be used.
    """
    return digest(*(Draws(of_seed).content() for of_seed in read(cfg).seeds))


def _logger(choice: Choice, folder: Path, everything: Mapping[str, Any], row: str) -> RunLogger | None:
    if choice.node.get("_target_") is None:
        return None
    kind, parameters = target(choice.node["_target_"], "logger._target_")
    settings = {
        key: check(value, parameters[key].annotation, f"logger.{key}") if key in parameters else value
        for key, value in choice.node.items()
        if key != "_target_"
    }
    return loggers.start(kind, settings, folder, everything, row)


def _first_users(benchmark: Benchmark) -> Benchmark:
    return replace(benchmark, users=benchmark.users[:SHOWN])


def report(
    folder: Path,
    name: str,
    pictures: list[Path],
    logger: RunLogger | None,
    console: Terminal,
    cost: tables.UserCost | None = None,
    given: Sequence[str] | None = None,
) -> None:
    """Make summary, table, verdict and figures from the records in a folder; print them and the files' names.

    Args:
        folder: The folder with `records.csv` and perhaps `costs.csv`.
        name: The title of the table.
        pictures: Figures that are there already.
        logger: The logger that gets the results, if any.
        console: The console that is printed to.
        cost: The cost of each user, for runs that computed any.
        given: The words of the command line that made the run, where it is one.
    """
    path = folder / "records.csv"
    if not path.exists():
        console.print(NOT_SCORED)
        return
    reduced, costs = reduce(records.chunks(path)), records.table(folder / "costs.csv", CostRecord)
    known = facts.read(folder)
    if known:
        names = facts.task_names([known])
        reduced = replace(reduced, tasks={str(data): names for data in reduced.draws["data"].unique()})
    # The rows of several benchmarks or networks have a verdict each, in the report.
    one = len(reduced.draws[["data", "model"]].drop_duplicates()) == 1
    answers = verdict(reduced.draws, costs, known, given, folder) if one else ()
    tables.write_summary(reduced, costs, cost, folder / "summary.json", answers)
    pictures = [*pictures, *figures.draw_all(reduced, folder / "figures")]
    console.print(tables.table(reduced, name, costs, cost))
    if len(costs) and not reduced.many:
        console.print(tables.costs(costs))
    sent = records.table(folder / "releases.csv", ReleaseRecord)
    if len(sent) and not reduced.many:
        console.print(tables.released(sent))
    merging = records.table(folder / "merges.csv", MergeRecord)
    if (merging["where"] != "server").any() and not reduced.many:
        console.print(tables.merged(merging))
    if answers:
        console.print(tables.answered(answers, console.width))
    files = [path, folder / "summary.json", *([folder / "costs.csv"] if len(costs) else [])]
    files += [folder / name for name, table in (("releases.csv", sent), ("merges.csv", merging)) if len(table)]
    files += pictures
    for written in files:
        console.print(f"  {written}")
    # A service may be slow, or gone: the table is there before.
    loggers.results(logger, reduced, costs, path, pictures)


def draw_records(settings: SeedSettings, row: Row, user: str, iteration: int, R: np.ndarray) -> list[Record]:
    """Make one record of each accuracy that a row has for a draw.

    Args:
        settings: The seed's settings.
        row: The row.
        user: The user's name.
        iteration: The Monte-Carlo iteration, from 1.
        R: The accuracy matrix `(N, N)` in percent, NaN where nothing was measured.

    Returns:
        The records.
    """
    whose = _whose(settings, row, user, iteration)
    own: dict[str, Any] = {
        "method": row.method,
        "importance": row.importance,
        "fidelity": settings.fidelity.name,
        "prior": row.prior,
        "statistics": row.statistics_name,
        "uses": row.uses,
    }
    return [
        Record(**whose, **own, after=int(t) + 1, on=int(j) + 1, accuracy=float(R[t, j]))
        for t, j in np.argwhere(~np.isnan(R))
    ]


def _costs(
    settings: SeedSettings, row: Row, user: str, iteration: int, spent: list[tuple[Task, Cost]]
) -> list[CostRecord]:
    whose = _whose(settings, row, user, iteration)
    return [CostRecord(**whose, task=task.name, statistics=moments(row.phi), **asdict(cost)) for task, cost in spent]


def _releases(
    settings: SeedSettings, row: Row, user: str, iteration: int, tasks: Sequence[Task], sent: Sequence[Sent]
) -> list[ReleaseRecord]:
    whose = _whose(settings, row, user, iteration)
    return [
        ReleaseRecord(**whose, task=task.name, release=row.release_name, **asdict(one))
        for task, one in zip(tasks, sent, strict=False)
    ]


def _merges(
    settings: SeedSettings, row: Row, user: str, iteration: int, merging: MergeCost | None
) -> list[MergeRecord]:
    whose = _whose(settings, row, user, iteration)
    return [] if merging is None else [MergeRecord(**whose, where=row.where, **asdict(merging))]


def _whose(settings: SeedSettings, row: Row, user: str, iteration: int) -> dict[str, Any]:
    """Give the columns about row and draw, which both kinds of records have."""
    return {
        "data": records.benchmark(settings.data.name, settings.simulate.name),
        "model": settings.model.name,
        "adapt": row.adapt,
        "label": row.label,
        "user": user,
        "iteration": iteration,
        "seed": settings.seed,
    }
