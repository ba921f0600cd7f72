"""One run: configuration in, records, table and figures out."""

import logging
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from torch import nn

from dua_lightning import __version__, server, user
from dua_lightning.adapt.cost import Cost
from dua_lightning.build import build, check
from dua_lightning.data.benchmark import Benchmark
from dua_lightning.data.user import UserData
from dua_lightning.errors import InputError
from dua_lightning.importance import Importance
from dua_lightning.params import Params, State, clone
from dua_lightning.report import figures, provenance, records, tables
from dua_lightning.report.loggers import Epoch, Logger
from dua_lightning.report.progress import Display, TrainingProgress
from dua_lightning.report.records import CostRecord, Record
from dua_lightning.rows import Row, expand, make
from dua_lightning.store import ExpertStore, digest
from dua_lightning.tasks import Expert, Task, UserModel
from dua_lightning.training import Training

MOST_THREADS = 1024
"""More than any processor has; the system refuses a process with far more."""


def run(cfg: DictConfig) -> None:
    """Train, measure, merge, adapt and evaluate every row for every seed; see `conf/config.yaml`.

    Everything is written to the run's folder; the table and the files' names are printed. Raises `InputError`.
    """
    # At each of a run's many fits Lightning would repeat the hardware and a tip.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    folder = Path(HydraConfig.get().runtime.output_dir)
    seeds = _seeds(cfg.seed)
    _set_threads(cfg.threads)
    cells = expand(cfg)
    if not cells:
        raise InputError("no row of the method agrees with the importance and adapt asked for; leave one of them out")
    provenance.write(cfg, folder)
    console = Console(soft_wrap=True)
    resolved: Any = OmegaConf.to_container(cfg, resolve=True)
    logger: Logger = build(cfg.logger, "logger", Logger, folder=folder, config=resolved, name=cfg.name)
    try:
        found: list[Record] = []
        costs: list[CostRecord] = []
        pictures: list[Path] = []
        display = Display(console)
        with display.progress:
            for seed in seeds:
                stage = _Seed(cells, seed, display, logger)
                if not pictures:
                    pictures.append(figures.gallery(stage.benchmark, folder / "figures" / "domains.png"))
                for new, spent in stage.results():
                    found += new
                    costs += spent
                    records.write(found, folder / "records.csv")
                    if costs:
                        records.write(costs, folder / "costs.csv")
        report(folder, str(cfg.name), pictures, logger, console)
    finally:
        logger.close()


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


def report(folder: Path, name: str, pictures: list[Path], logger: Logger | None, console: Console) -> None:
    """Summary, table and figures from the records in `folder`; prints the table and where everything lies."""
    frame = records.read(folder / "records.csv")
    tables.write_summary(frame, folder / "summary.json")
    pictures = [*pictures, *figures.draw_all(frame, folder / "figures")]
    if logger is not None:
        logger.results(frame, pictures)
    console.print(tables.table(frame, name))
    costs = folder / "costs.csv"
    if costs.exists():
        console.print(tables.costs(pd.read_csv(costs)))
    for path in (folder / "records.csv", folder / "summary.json", *([costs] if costs.exists() else []), *pictures):
        console.print(f"  {path}")


def _with_seed(cfg: DictConfig, seed: int) -> DictConfig:
    copy = cfg.copy()
    copy.seed = seed
    return copy


class _Seed:
    """All rows of one seed on one benchmark."""

    def __init__(self, cells: list[DictConfig], seed: int, display: Display, logger: Logger) -> None:
        self.seed = seed
        self.display = display
        self.logger = logger
        self.cells = [_with_seed(cell, seed) for cell in cells]
        self.rows: list[Row] = [make(cell) for cell in self.cells]
        cfg = self.cells[0]
        self.training: Training = build(cfg.trainer, "trainer", Training)
        self.benchmark: Benchmark = build(cfg.data, "data", Benchmark, seed=seed)
        self.net: nn.Module = build(
            cfg.model, "model", nn.Module, shape=self.benchmark.shape, classes=self.benchmark.classes, seed=seed
        )
        for row in self.rows:
            self._check(row)
        self.start: State = clone(self.net.state_dict())
        self.store = ExpertStore(Path(cfg.paths.experts_dir))
        self.recipe: dict[str, Any] = {
            "version": __version__,
            "seed": seed,
            "shape": list(self.benchmark.shape),
            "classes": self.benchmark.classes,
            "model": OmegaConf.to_container(cfg.model, resolve=True),
            "trainer": OmegaConf.to_container(cfg.trainer, resolve=True),
            "data": [data.recipe() for data in self.benchmark.server],
        }
        self._shared_priors: dict[tuple[str, Importance | None, bool], list[Params]] = {}

    def _check(self, row: Row) -> None:
        """Refuse before anything is trained what the data or the network cannot give."""
        row.phi.check(self.net)
        labelled = all(data.labelled for data in self.benchmark.users)
        if row.prior == "user" and row.psi is not None and row.psi.needs_labels and not labelled:
            raise InputError(
                f"{row.label} measures importance={row.importance} on users' labels, and data.users_labelled=false; "
                "use importance=mas, or importance=fim importance.labels=sampled"
            )
        if row.phi.needs_labels and not labelled:
            raise InputError(
                f"adapt={row.adapt} trains on users' labels, and data.users_labelled=false; use adapt=none"
            )

    def results(self) -> Iterator[tuple[list[Record], list[CostRecord]]]:
        """What each user's draw gives, for all rows, as soon as it is done.

        Users are the outer loop: rows share a user's priors, and a user's images are decoded and transformed once.
        """
        experts = [self._experts(row) for row in self.rows]
        draws = [(data, i) for data in self.benchmark.users for i in range(1, self.benchmark.iterations + 1)]
        with self.display.bar(f"seed {self.seed}: users", len(draws) * len(self.rows)) as advance:
            for base, iteration in draws:
                data = base.draw(iteration)
                own_priors: dict[tuple[str, Importance | None], list[Params]] = {}
                found: list[Record] = []
                costs: list[CostRecord] = []
                for cell, row, of_row in zip(self.cells, self.rows, experts, strict=True):
                    if row.prior == "user":
                        key = (row.experts, row.psi)
                        if key not in own_priors:
                            assert row.psi is not None
                            own_priors[key] = user.measure(row.psi, self.net, of_row, data)
                        priors = own_priors[key]
                    else:
                        priors = self._server_priors(row, of_row)
                    R, spent = user.evaluate(self.net, of_row, self._models(row, of_row, priors), row.phi, data)
                    found += self._records(cell, row, data, R)
                    costs += self._costs(cell, row, data, spent)
                    advance(f"user {data.user}, {row.label}")
                yield found, costs

    def _experts(self, row: Row) -> tuple[Expert, ...]:
        text = f"seed {self.seed}: {row.experts} experts"
        values: Epoch = {"seed": self.seed, "experts": row.experts}
        progress = TrainingProgress(self.display, text, values, self.logger.epoch)
        data, net, start = self.benchmark.server, self.net, self.start
        if row.training == "joint":
            key = digest(self.recipe, "joint", row.recipe)
            experts = server.train_joint(net, start, data, row.regulariser, self.training, self.store, key, [progress])
        else:
            # No regulariser acts on the first task: its expert is shared by all of them.
            keys = [
                digest({**self.recipe, "data": self.recipe["data"][:t]}, row.recipe if t > 1 else {})
                for t in range(1, len(data) + 1)
            ]
            experts = server.train_experts(
                net, start, data, row.regulariser, self.training, self.store, keys, [progress]
            )
        if progress.best:
            best = "  ".join(f"{task} {accuracy:.1f}" for task, accuracy in progress.best.items())
            self.display.say(f"{text} trained in {progress.seconds():.1f} s, validation %: {best}")
        return experts

    def _server_priors(self, row: Row, experts: tuple[Expert, ...]) -> list[Params]:
        """What the server measures, once for all users; nothing for rows without priors."""
        if row.psi is None:
            return []
        key = (row.experts, row.psi, row.training_data_too)
        if key not in self._shared_priors:
            self._shared_priors[key] = server.measure(
                row.psi, self.net, experts, self.benchmark.server, row.training_data_too
            )
        return self._shared_priors[key]

    def _models(self, row: Row, experts: tuple[Expert, ...], priors: list[Params]) -> Iterator[tuple[int, UserModel]]:
        """The personal model after each task; after the last one alone for Joint training."""
        if row.training == "joint":
            yield len(experts), row.chi(experts, priors)
            return
        for t, model in server.merge_prefixes(row.chi, experts, priors):
            yield t, server.recalibrate(self.net, model, self.benchmark.server) if row.recalibrate else model

    def _records(self, cell: DictConfig, row: Row, data: UserData, R: np.ndarray) -> list[Record]:
        return [
            Record(
                data=cell.data.name,
                model=cell.model.name,
                method=row.method,
                importance=row.importance,
                adapt=row.adapt,
                label=row.label,
                fidelity=cell.fidelity.name,
                user=data.user,
                iteration=data.iteration,
                seed=self.seed,
                after=int(t) + 1,
                on=int(j) + 1,
                accuracy=R[t, j],
            )
            for t, j in np.argwhere(~np.isnan(R))
        ]

    def _costs(self, cell: DictConfig, row: Row, data: UserData, spent: list[tuple[Task, Cost]]) -> list[CostRecord]:
        if row.adapt == "none":
            return []
        return [
            CostRecord(
                data=cell.data.name,
                model=cell.model.name,
                adapt=row.adapt,
                label=row.label,
                user=data.user,
                iteration=data.iteration,
                seed=self.seed,
                task=task.name,
                **asdict(cost),
            )
            for task, cost in spent
        ]
