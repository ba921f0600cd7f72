"""The cells of the table, one row for one draw of one user: each is computed once, and kept in the store."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig
from torch import nn

from dua_lightning import server, user
from dua_lightning.adapt.cost import Cost
from dua_lightning.build import build, check
from dua_lightning.data.benchmark import Benchmark
from dua_lightning.data.user import UserData
from dua_lightning.errors import InputError
from dua_lightning.params import Params, State, clone
from dua_lightning.recipes import Recipes
from dua_lightning.report.display import Display
from dua_lightning.report.loggers import Epoch, Logger
from dua_lightning.rows import Row, make
from dua_lightning.store import Recipe, Store
from dua_lightning.tasks import Expert, Task, UserModel
from dua_lightning.tensorfile import Tensors


@dataclass(frozen=True)
class Result:
    """What one row gives for one draw: R `(N, N)` in percent, and what each adaptation cost."""

    R: np.ndarray
    costs: list[tuple[Task, Cost]]

    def tensors(self, tasks: tuple[Task, ...]) -> Tensors:
        """For the store: a task is its place among `tasks`."""
        return {
            "R": torch.from_numpy(self.R),
            "tasks": torch.tensor([tasks.index(task) for task, _ in self.costs], dtype=torch.int64),
            "costs": torch.tensor([astuple(cost) for _, cost in self.costs], dtype=torch.float64),
        }

    @staticmethod
    def of(tensors: Tensors, tasks: tuple[Task, ...]) -> "Result":
        """From the store."""
        costs = zip(tensors["tasks"].tolist(), tensors["costs"].tolist(), strict=True)
        return Result(
            tensors["R"].numpy().copy(),
            [(tasks[place], Cost(int(trainable), int(size), *rest)) for place, (trainable, size, *rest) in costs],
        )


class Cells:
    """All rows of one seed on one benchmark.

    Experts are trained, and priors measured, when the first result that needs them is not in the store. Raises
    `InputError` before anything is trained for rows that the data or the network cannot give.
    """

    def __init__(self, configs: list[DictConfig], seed: int, display: Display, logger: Logger) -> None:
        self.configs = [_with_seed(config, seed) for config in configs]
        self.rows = [make(config) for config in self.configs]
        self.seed = seed
        self._display = display
        self._logger = logger
        self._cfg = self.configs[0]
        self.benchmark: Benchmark = build(self._cfg.data, "data", Benchmark, seed=seed)
        shape, classes = self.benchmark.shape, self.benchmark.classes
        self._net: nn.Module = build(self._cfg.model, "model", nn.Module, shape=shape, classes=classes, seed=seed)
        for row in self.rows:
            self._check(row)
        self._start: State = clone(self._net.state_dict())
        self._store = Store(Path(str(self._cfg.paths.store_dir)), display.say)
        self._keep_priors = check(self._cfg.store.priors, bool, "store.priors")
        self._recipes = Recipes(self._cfg, self._start, self.benchmark)
        self._experts: dict[str, tuple[Expert, ...]] = {}
        self._server_priors: dict[str, list[Params]] = {}

    def _check(self, row: Row) -> None:
        row.phi.check(self._net)
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

    def results(self) -> Iterator[tuple[UserData, list[Result]]]:
        """What each user's draw gives, for all rows, as soon as it is done; says at the end what was in the store.

        Users are the outer loop: rows share a user's priors, and a user's images are decoded and transformed once.
        """
        needed = {recipe.key: recipe for row in self.rows for recipe in self._recipes.experts(row)}
        experts = sum(self._store.path(recipe).exists() for recipe in needed.values())
        draws = [(data, i) for data in self.benchmark.users for i in range(1, self.benchmark.iterations + 1)]
        reused, total = 0, len(draws) * len(self.rows)
        with self._display.bar(f"seed {self.seed}: users", total) as advance:
            for base, iteration in draws:
                data = base.draw(iteration)
                own_priors: dict[str, list[Params]] = {}
                found: list[Result] = []
                for row in self.rows:
                    recipe = self._recipes.result(row, data)
                    kept = self._store.get(recipe)
                    if kept is None:
                        result = self._result(row, data, own_priors)
                        self._store.put(recipe, result.tensors(self.benchmark.tasks))
                    else:
                        result = Result.of(kept, self.benchmark.tasks)
                        reused += 1
                    found.append(result)
                    advance(f"user {data.user}, {row.label}")
                yield data, found
        if experts or reused:
            self._display.say(f"seed {self.seed}: reused {experts} experts and {reused} of {total} results")

    def _result(self, row: Row, data: UserData, own_priors: dict[str, list[Params]]) -> Result:
        experts = self._trained(row)
        priors = self._priors(row, experts, data, own_priors)
        return Result(*user.evaluate(self._net, experts, self._models(row, experts, priors), row.phi, data))

    def _trained(self, row: Row) -> tuple[Expert, ...]:
        """The row's experts; rows that share them share the memory."""
        recipes = self._recipes.experts(row)
        if recipes[-1].key not in self._experts:
            self._experts[recipes[-1].key] = self._read(row, recipes) or self._train(row, recipes)
        return self._experts[recipes[-1].key]

    def _read(self, row: Row, recipes: list[Recipe]) -> tuple[Expert, ...]:
        """The row's experts where the store has all of them; otherwise none."""
        if not all(self._store.path(recipe).exists() for recipe in recipes):
            return ()
        states = [state for recipe in recipes if (state := self._store.get(recipe)) is not None]
        if len(states) < len(recipes):
            return ()
        tasks = self.benchmark.tasks
        return tuple(map(Expert, tasks, states * len(tasks) if row.training == "joint" else states))

    def _train(self, row: Row, recipes: list[Recipe]) -> tuple[Expert, ...]:
        # Only where there is something to train is Lightning loaded, which takes seconds.
        from dua_lightning.report.progress import TrainingProgress
        from dua_lightning.training import Training

        # At each of a run's many fits Lightning would repeat the hardware and a tip.
        logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
        text = f"seed {self.seed}: {row.experts} experts"
        values: Epoch = {"seed": self.seed, "experts": row.experts}
        progress = TrainingProgress(self._display, text, values, self._logger.epoch)
        training = build(self._cfg.trainer, "trainer", Training)
        data, net, start, store = self.benchmark.server, self._net, self._start, self._store
        if row.training == "joint":
            (recipe,) = recipes
            experts = server.train_joint(net, start, data, row.regulariser, training, store, recipe, [progress])
        else:
            experts = server.train_experts(net, start, data, row.regulariser, training, store, recipes, [progress])
        if progress.best:
            best = "  ".join(f"{task} {accuracy:.1f}" for task, accuracy in progress.best.items())
            self._display.say(f"{text} trained in {progress.seconds():.1f} s, validation %: {best}")
        return experts

    def _priors(
        self, row: Row, experts: tuple[Expert, ...], data: UserData, own_priors: dict[str, list[Params]]
    ) -> list[Params]:
        """What the user measures, once for all rows, or the server, once for all users; nothing for rows without."""
        psi = row.psi
        if psi is None:
            return []
        if row.prior == "user":
            return self._measured(
                own_priors, self._recipes.priors(row, data), lambda: user.measure(psi, self._net, experts, data)
            )
        return self._measured(
            self._server_priors,
            self._recipes.priors(row, None),
            lambda: server.measure(psi, self._net, experts, self.benchmark.server, row.training_data_too),
        )

    def _measured(
        self, known: dict[str, list[Params]], recipe: Recipe, measure: Callable[[], list[Params]]
    ) -> list[Params]:
        if recipe.key not in known:
            known[recipe.key] = self._kept(recipe, measure) if self._keep_priors else measure()
        return known[recipe.key]

    def _kept(self, recipe: Recipe, measure: Callable[[], list[Params]]) -> list[Params]:
        """The priors in one entry of the store, each weight's name behind the place of its expert."""

        def named() -> Tensors:
            return {f"{t}/{name}": omega for t, prior in enumerate(measure()) for name, omega in prior.items()}

        priors: dict[str, Params] = {}
        for name, omega in self._store.once(recipe, named).items():
            t, _, weight = name.partition("/")
            priors.setdefault(t, {})[weight] = omega
        return [priors[t] for t in sorted(priors, key=int)]

    def _models(self, row: Row, experts: tuple[Expert, ...], priors: list[Params]) -> Iterator[tuple[int, UserModel]]:
        """The personal model after each task; after the last one alone for Joint training."""
        if row.training == "joint":
            yield len(experts), row.chi(experts, priors)
            return
        for t, model in server.merge_prefixes(row.chi, experts, priors):
            yield t, server.recalibrate(self._net, model, self.benchmark.server) if row.recalibrate else model


def _with_seed(cfg: DictConfig, seed: int) -> DictConfig:
    copy = cfg.copy()
    copy.seed = seed
    return copy
