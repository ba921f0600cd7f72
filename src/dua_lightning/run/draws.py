"""What one draw of one user gives: a pure function of experts and the server's priors, run in any process."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from dua_lightning import server, user
from dua_lightning.adapt.cost import Cost
from dua_lightning.data.benchmark import Benchmark
from dua_lightning.data.user import UserData
from dua_lightning.engines import Job, Shared
from dua_lightning.errors import InputError
from dua_lightning.params import Params, State, clone
from dua_lightning.run.build import build, check
from dua_lightning.run.recipes import Recipes
from dua_lightning.run.rows import Row, make
from dua_lightning.store.store import Store, digest
from dua_lightning.store.tensorfile import Tensors
from dua_lightning.tasks import Expert, Task, UserModel


@dataclass(frozen=True)
class Draw:
    """Monte-Carlo iteration `iteration`, from 1, of the benchmark's user at `place`, for the rows at `rows`."""

    place: int
    iteration: int
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Result:
    """What one row gives for one draw: R `(N, N)` in percent, and what each adaptation cost."""

    R: np.ndarray
    costs: list[tuple[Task, Cost]]

    def tensors(self, tasks: tuple[Task, ...]) -> Tensors:
        """For the store: a task is its place among `tasks`."""
        return {
            "R": torch.tensor(self.R),
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


class Draws:
    """All rows of one seed on one benchmark, ready to be computed for any user.

    Made of the configurations of the rows alone, so that every process that makes it has the same. Raises `InputError`
    for rows that the data or the network cannot give. `say` gets the store's lines.
    """

    def __init__(self, configs: Sequence[DictConfig], seed: int, say: Callable[[str], None] | None = None) -> None:
        self.configs = [_with_seed(config, seed) for config in configs]
        self.rows = [make(config) for config in self.configs]
        cfg = self.configs[0]
        self.benchmark: Benchmark = build(cfg.data, "data", Benchmark, seed=seed)
        shape, classes = self.benchmark.shape, self.benchmark.classes
        self.net: nn.Module = build(cfg.model, "model", nn.Module, shape=shape, classes=classes, seed=seed)
        for row in self.rows:
            self._check(row)
        self.start: State = clone(self.net.state_dict())
        root = Path(str(cfg.paths.store_dir))
        self.store = Store(root) if say is None else Store(root, say)
        self.recipes = Recipes(cfg, self.start, self.benchmark)
        self.keep_priors = check(OmegaConf.select(cfg, "store.priors"), bool, "store.priors")
        self._seed = seed

    def job(self) -> Job:
        """For an engine: how another process makes the same."""
        plain = [OmegaConf.to_container(config, resolve=True) for config in self.configs]
        text = json.dumps(plain)
        return Job(digest(text), partial(_made_of, text, self._seed), self.compute)

    def data(self, draw: Draw) -> UserData:
        """The user's data in the halves of this draw."""
        return self.benchmark.users[draw.place].draw(draw.iteration)

    def compute(self, draw: Draw, shared: Shared) -> tuple[list[Result], float]:
        """The results of the draw's rows and the seconds they took; `shared` as `experts` and `priors` name it."""
        began = time.perf_counter()
        data = self.data(draw)
        own_priors: dict[str, list[Params]] = {}
        found = [self._result(self.rows[place], data, own_priors, shared) for place in draw.rows]
        return found, time.perf_counter() - began

    def _check(self, row: Row) -> None:
        row.phi.check(self.net)
        # All users' data are labelled, or none's.
        labelled = self.benchmark.users[0].labelled
        if row.prior == "user" and row.psi is not None and row.psi.needs_labels and not labelled:
            raise InputError(
                f"{row.label} measures importance={row.importance} on users' labels, and data.users_labelled=false; "
                "use importance=mas, or importance=fim importance.labels=sampled"
            )
        if row.phi.needs_labels and not labelled:
            raise InputError(
                f"adapt={row.adapt} trains on users' labels, and data.users_labelled=false; use adapt=none"
            )

    def _result(self, row: Row, data: UserData, own_priors: dict[str, list[Params]], shared: Shared) -> Result:
        states = [shared[recipe.key] for recipe in self.recipes.experts(row)]
        experts = joined(self.benchmark.tasks, states)
        priors = self._priors(row, experts, data, own_priors, shared)
        return Result(*user.evaluate(self.net, experts, self._models(row, experts, priors), row.phi, data))

    def _priors(
        self,
        row: Row,
        experts: tuple[Expert, ...],
        data: UserData,
        own_priors: dict[str, list[Params]],
        shared: Shared,
    ) -> list[Params]:
        """What the user measures, once for all rows, or the server, once for all users; nothing for rows without."""
        psi = row.psi
        if psi is None:
            return []
        if row.prior == "server":
            return unnamed(shared[self.recipes.priors(row, None).key])
        recipe = self.recipes.priors(row, data)
        if recipe.key not in own_priors:
            own_priors[recipe.key] = (
                unnamed(self.store.once(recipe, lambda: named(user.measure(psi, self.net, experts, data))))
                if self.keep_priors
                else user.measure(psi, self.net, experts, data)
            )
        return own_priors[recipe.key]

    def _models(self, row: Row, experts: tuple[Expert, ...], priors: list[Params]) -> Iterator[tuple[int, UserModel]]:
        """The personal model after each task; after the last one alone for Joint training."""
        if row.training == "joint":
            yield len(experts), row.chi(experts, priors)
            return
        for t, model in server.merge_prefixes(row.chi, experts, priors):
            yield t, server.recalibrate(self.net, model, self.benchmark.server) if row.recalibrate else model


def joined(tasks: Sequence[Task], states: Sequence[State]) -> tuple[Expert, ...]:
    """Each task's expert; where one state serves all tasks (Joint training), it is the expert of each."""
    return tuple(map(Expert, tasks, [*states] * len(tasks) if len(states) < len(tasks) else states))


def named(priors: Sequence[Params]) -> Tensors:
    """Priors as one entry of the store: each weight's name behind the place of its expert."""
    return {f"{t}/{name}": omega for t, prior in enumerate(priors) for name, omega in prior.items()}


def unnamed(tensors: Mapping[str, torch.Tensor]) -> list[Params]:
    """The priors that `named` made an entry of."""
    priors: dict[str, Params] = {}
    for name, omega in tensors.items():
        t, _, weight = name.partition("/")
        priors.setdefault(t, {})[weight] = omega
    return [priors[t] for t in sorted(priors, key=int)]


def _made_of(text: str, seed: int) -> Callable[[Draw, Shared], tuple[list[Result], float]]:
    return Draws([OmegaConf.create(config) for config in json.loads(text)], seed).compute


def _with_seed(cfg: DictConfig, seed: int) -> DictConfig:
    copy = cfg.copy()
    copy.seed = seed
    return copy
