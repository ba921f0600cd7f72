"""One run: configuration in, records, table and figures out."""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from torch import nn

from dua_lightning import __version__, server, user
from dua_lightning.build import build, check
from dua_lightning.data.benchmark import Benchmark
from dua_lightning.data.user import UserData
from dua_lightning.errors import InputError
from dua_lightning.params import Params, State, clone
from dua_lightning.report import figures, provenance, records, tables
from dua_lightning.report.loggers import Epoch, Logger
from dua_lightning.report.progress import Display, TrainingProgress
from dua_lightning.report.records import Record
from dua_lightning.rows import Row, expand, make
from dua_lightning.store import ExpertStore, digest
from dua_lightning.tasks import Expert
from dua_lightning.training import Training

NOT_OF_EXPERTS = ("root", "download", "user_batch_size", "users_labelled", "iterations")
"""Settings of the data that do not touch what the server trains on; experts are shared across their values."""


def run(cfg: DictConfig) -> None:
    """Train, measure, merge, adapt and evaluate every row for every seed; see `conf/config.yaml`.

    Everything is written to the run's folder; the table and the files' names are printed. Raises `InputError`.
    """
    # At each of a run's many fits Lightning would repeat the hardware and a tip.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    folder = Path(HydraConfig.get().runtime.output_dir)
    seeds = _seeds(cfg.seed)
    cells = expand(cfg)
    if not cells:
        raise InputError("no row of the method agrees with the importance and adapt asked for; leave one of them out")
    provenance.write(cfg, folder)
    console = Console(soft_wrap=True)
    resolved: Any = OmegaConf.to_container(cfg, resolve=True)
    logger: Logger = build(cfg.logger, "logger", folder=folder, config=resolved, name=cfg.name)
    try:
        found: list[Record] = []
        pictures: list[Path] = []
        display = Display(console)
        with display.progress:
            for seed in seeds:
                stage = _Seed(cells, seed, display, logger)
                if not pictures:
                    pictures.append(figures.gallery(stage.benchmark, folder / "figures" / "domains.png"))
                for new in stage.records():
                    found += new
                    records.write(found, folder / "records.csv")
        report(folder, str(cfg.name), pictures, logger, console)
    finally:
        logger.close()


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
    for path in (folder / "records.csv", folder / "summary.json", *pictures):
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
        self.training: Training = build(cfg.trainer, "trainer")
        self.benchmark: Benchmark = build(cfg.data, "data", seed=seed)
        self.net: nn.Module = build(
            cfg.model, "model", shape=self.benchmark.shape, classes=self.benchmark.classes, seed=seed
        )
        for row in self.rows:
            self._check(row)
        self.start: State = clone(self.net.state_dict())
        self.store = ExpertStore(Path(cfg.paths.experts_dir))
        data: Any = OmegaConf.to_container(cfg.data, resolve=True)
        self.recipe = {
            "version": __version__,
            "seed": seed,
            "data": {key: value for key, value in data.items() if key not in NOT_OF_EXPERTS},
            "model": OmegaConf.to_container(cfg.model, resolve=True),
            "trainer": OmegaConf.to_container(cfg.trainer, resolve=True),
        }

    def records(self) -> Iterable[list[Record]]:
        """The records of each row, as soon as it is done."""
        for cell, row in zip(self.cells, self.rows, strict=True):
            yield self._evaluate(cell, row, self._experts(row))

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
            first = digest(self.recipe, "task 1")
            later = [digest(self.recipe, f"task {t}", row.recipe) for t in range(2, len(data) + 1)]
            experts = server.train_experts(
                net, start, data, row.regulariser, self.training, self.store, [first, *later], [progress]
            )
        if progress.best:
            best = "  ".join(f"{task} {accuracy:.1f}" for task, accuracy in progress.best.items())
            self.display.say(f"{text} trained in {progress.seconds():.1f} s, validation %: {best}")
        return experts

    def _evaluate(self, cell: DictConfig, row: Row, experts: tuple[Expert, ...]) -> list[Record]:
        shared = []
        if row.prior == "server" and row.psi is not None:
            shared = server.measure(row.psi, self.net, experts, self.benchmark.server)
        draws = [data.draw(i) for data in self.benchmark.users for i in range(1, self.benchmark.iterations + 1)]
        found: list[Record] = []
        with self.display.bar(f"seed {self.seed}: {row.label}, users", len(draws)) as advance:
            for data in draws:
                found += self._personalise(cell, row, experts, shared, data)
                advance(f"user {data.user}")
        return found

    def _personalise(
        self, cell: DictConfig, row: Row, experts: tuple[Expert, ...], shared: list[Params], data: UserData
    ) -> list[Record]:
        priors = shared
        if row.prior == "user" and row.psi is not None:
            priors = user.measure(row.psi, self.net, experts, data)
        if row.training == "joint":
            models = iter([(len(experts), row.chi(experts, priors))])
        else:
            models = server.merge_prefixes(row.chi, experts, priors)
        R = user.accuracy_matrix(self.net, models, row.phi, data)
        return [
            Record(
                data=cell.data.name,
                model=cell.model.name,
                method=row.method,
                importance=row.importance,
                adapt=row.adapt,
                label=row.label,
                user=data.user,
                iteration=data.iteration,
                seed=self.seed,
                after=t + 1,
                on=j + 1,
                accuracy=R[t, j],
            )
            for t in range(len(R))
            for j in range(t + 1)
            if R[t, j] == R[t, j]
        ]
