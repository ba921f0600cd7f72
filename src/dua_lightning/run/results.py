"""The results of a seed, one for each row and draw of a user: each is computed once, and kept in the store."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256

import numpy as np
from lightning.pytorch.utilities.exceptions import SIGTERMException

from dua_lightning import server
from dua_lightning.data.benchmark import Benchmark
from dua_lightning.data.server import union
from dua_lightning.engines import Engine
from dua_lightning.progress import stage
from dua_lightning.report import loggers
from dua_lightning.report.display import Display
from dua_lightning.report.loggers import RunLogger
from dua_lightning.report.progress import TrainingProgress
from dua_lightning.report.records import TrainingRecord
from dua_lightning.report.stream import Stream
from dua_lightning.run import training
from dua_lightning.run.draws import Draw, Draws, Result, joined
from dua_lightning.run.rows import Row
from dua_lightning.run.settings import SeedSettings
from dua_lightning.run.stopping import Stopped
from dua_lightning.store.store import Recipe
from dua_lightning.store.tensorfile import Tensors
from dua_lightning.tasks import Expert
from dua_lightning.training import Fitted

MOST_WAITING = 1000
"""Finished draws that wait for an earlier one that takes longer; with more, no further ones are started."""

SHOWN = 10
"""The most names in a line."""


@dataclass
class _Collected:
    """A draw whose results are being collected: those of the rows, in their order, and the recipes of missing ones."""

    user: str
    draw: Draw
    results: list[Result | None]
    reused: int = 0
    missing: dict[int, Recipe] = field(default_factory=dict)


class Results:
    """All results of one seed on one benchmark.

    Experts are trained, and the server's priors measured, in this process and when the first result that needs them is
    not in the store; the engine computes users' draws.

    Args:
        settings: The seed's settings.
        display: The progress display.
        logger: The logger of trainings, if any.
        engine: The engine that computes users' draws.
        trainings: The stream of records of trainings.

    Raises:
        InputError: The data or the network cannot give a row; nothing has been trained then.
    """

    def __init__(
        self, settings: SeedSettings, display: Display, logger: RunLogger | None, engine: Engine, trainings: Stream
    ) -> None:
        with stage(f"seed {settings.seed}: loading the data"):
            self._draws = Draws(settings, display.say)
        self._draws.check_sizes()
        self.rows = self._draws.rows
        self.benchmark: Benchmark = self._draws.benchmark
        self.net = self._draws.net
        self.seed = settings.seed
        self.computed = 0
        self.seconds = 0.0
        self._display = display
        self._logger = logger
        self._engine = engine
        self._trainings = trainings
        self._store = self._draws.store
        self._recipes = self._draws.recipes
        self._experts: dict[str, tuple[Expert, ...]] = {}
        self._shared: set[str] = set()
        self._said: set[str] = set()
        self._content = sha256()

    @property
    def content(self) -> str:
        """The digest of everything that the results given so far are made of; at the end that of `Draws.content`."""
        return self._content.hexdigest()

    def by_draw(self) -> Iterator[tuple[str, int, list[Result]]]:
        """Give the results of all rows for each draw, in the order of users, and say at the end what was reused.

        Draws are the outer loop: rows share a user's priors, and a user's images are decoded and transformed once. A
        result that is not in the store is computed, and put there as soon as it arrives. The number of computed draws,
        and the seconds that they took their workers, are then in `computed` and `seconds`.

        Yields:
            A user's name, the iteration, and the results in the order of the rows.
        """
        needed = {recipe.key: recipe for row in self.rows for recipe in self._recipes.experts(row)}
        experts = sum(self._store.path(recipe).exists() for recipe in needed.values())
        users, iterations = self.benchmark.users, self.benchmark.iterations
        total = len(users) * iterations
        work = self._draws.work()
        waiting: dict[int, _Collected] = {}
        turn = reused = asked = 0
        with self._display.bar(f"seed {self.seed}: users", total) as advance:
            for place in range(total):
                collected = waiting[place] = self._kept(place // iterations, place % iterations + 1)
                reused += collected.reused
                asked += collected.reused + len(collected.missing)
                if collected.missing:
                    keys = {key: None for row in collected.missing for key in self._share(self.rows[row])}
                    self._engine.submit(work, place, collected.draw, list(keys))
                last = place == total - 1
                while self._engine.pending and (
                    last or self._engine.pending >= self._engine.room or len(waiting) > MOST_WAITING
                ):
                    self._receive(waiting)
                while turn in waiting and not waiting[turn].missing:
                    collected = waiting.pop(turn)
                    turn += 1
                    advance(f"user {collected.user}")
                    found = [result for result in collected.results if result is not None]
                    self._say_tasks(collected.user, found)
                    yield collected.user, collected.draw.iteration, found
        if experts or reused:
            self._display.say(f"seed {self.seed}: reused {experts} experts and {reused} of {asked} results")

    def notes(self) -> Iterator[str]:
        """Tell who is left out of what for want of labels, as far as users are known before a run visits them.

        Yields:
            Lines.
        """
        users = self._draws.known_users
        lacking: dict[tuple[str, ...], list[str]] = {}
        for someone in users:
            lacking.setdefault(tuple(task.name for task in someone.unscored), []).append(someone.user)
        for tasks, names in lacking.items():
            if tasks:
                of = "" if len(tasks) == len(self.benchmark.tasks) else f" of {', '.join(tasks)}"
                yield f"{_have(names)} no labels{of}: personalised, not scored"
        out = [someone.user for someone in users if not someone.labelled]
        labels = [row.label for row in self.rows if row.needs_labels]
        if out and labels:
            yield f"{_have(out)} not all labels, which {', '.join(labels)} needs: left out there"

    def _say_tasks(self, user: str, results: list[Result]) -> None:
        """Say how many of a user's pictures got which task by confidence; rows with other experts may differ."""
        for counts in dict.fromkeys(result.by_confidence for result in results if result.by_confidence):
            of = ", ".join(f"{count} {task.name}" for count, task in zip(counts, self.benchmark.tasks, strict=True))
            line = f"user {user}: no tasks given; by the experts' confidence {of}"
            if line not in self._said:
                self._said.add(line)
                self._display.say(f"seed {self.seed}: {line}")

    def _kept(self, user: int, iteration: int) -> _Collected:
        """Read the results of a draw that the store has."""
        data = self.benchmark.users[user].draw(iteration)
        results: list[Result | None] = []
        missing: dict[int, Recipe] = {}
        reused = 0
        for place, row in enumerate(self.rows):
            if not self._draws.takes(row, data):
                N = len(self.benchmark.tasks)
                results.append(Result(np.full((N, N), np.nan), []))
                continue
            recipe = self._recipes.result(row, data)
            self._content.update(recipe.key.encode())
            kept = self._store.get(recipe)
            results.append(None if kept is None else Result.of(kept, self.benchmark.tasks))
            if kept is None:
                missing[place] = recipe
            else:
                reused += 1
        draw = Draw(user, iteration, tuple(missing), self._draws.pictures(data))
        return _Collected(data.user, draw, results, reused, missing)

    def _receive(self, waiting: dict[int, _Collected]) -> None:
        place, (results, seconds) = self._engine.receive()
        collected = waiting[place]
        for row, result in zip(collected.draw.rows, results, strict=True):
            self._store.put(collected.missing.pop(row), result.tensors(self.benchmark.tasks))
            collected.results[row] = result
        self.computed += 1
        self.seconds += seconds

    def _share(self, row: Row) -> list[str]:
        """The keys of the row's experts and of the server's priors, which are made and shared where they were not."""
        recipes = self._recipes.experts(row)
        experts = self._trained(row, recipes)
        for recipe, expert in zip(recipes, experts, strict=False):
            self._give(recipe, expert.state)
        keys = [recipe.key for recipe in recipes]
        if row.prior == "server":
            recipe = self._recipes.priors(row, None)
            if recipe.key not in self._shared:
                keep = self._draws.settings.keep_priors or self._engine.by_path
                self._give(recipe, self._draws.server_priors(row, experts, keep))
            keys.append(recipe.key)
        return keys

    def _give(self, recipe: Recipe, tensors: Tensors) -> None:
        if recipe.key not in self._shared:
            self._engine.share(recipe.key, self._store.path(recipe), tensors)
            self._shared.add(recipe.key)

    def _trained(self, row: Row, recipes: list[Recipe]) -> tuple[Expert, ...]:
        """The row's experts; rows that share them share the memory."""
        if recipes[-1].key not in self._experts:
            self._experts[recipes[-1].key] = self._read(recipes) or self._train(row, recipes)
        return self._experts[recipes[-1].key]

    def _read(self, recipes: list[Recipe]) -> tuple[Expert, ...]:
        """The experts where the store has all of them; otherwise none."""
        if not all(self._store.path(recipe).exists() for recipe in recipes):
            return ()
        states = [state for recipe in recipes if (state := self._store.get(recipe)) is not None]
        return joined(self.benchmark.tasks, states) if len(states) == len(recipes) else ()

    def _train(self, row: Row, recipes: list[Recipe]) -> tuple[Expert, ...]:
        text = f"seed {self.seed}: {row.training_label} experts"
        progress = TrainingProgress(self._display, text)
        made: list[Fitted] = []

        def trained(fitted: Fitted) -> None:
            made.append(fitted)
            of = self.seed, row.training_label, fitted.expert.task.name
            self._trainings.write([TrainingRecord(*of, fitted.epochs, fitted.seconds, fitted.val_accuracy)])

        asked = training.make(self._draws.settings.training)
        tasks = self.benchmark.server
        with _stops():
            experts = server.train_experts(
                self._draws.net,
                self._draws.start,
                [union(tasks)] if row.training == "joint" else tasks,
                row.regulariser,
                replace(
                    asked,
                    callbacks=lambda: [*asked.callbacks(), progress],
                    logger=lambda task: loggers.curves(self._logger, self.seed, row.training_label, task.name),
                ),
                self._store,
                recipes,
                trained,
            )
        if made:
            best = "  ".join(f"{fitted.expert.task.name} {fitted.val_accuracy:.1f}" for fitted in made)
            seconds = sum(fitted.seconds for fitted in made)
            self._display.say(f"{text} trained in {seconds:.1f} s, validation %: {best}")
        return joined(self.benchmark.tasks, [expert.state for expert in experts])


@contextmanager
def _stops() -> Iterator[None]:
    """Turn the exit by which Lightning ends a training after SIGTERM, with status 0, into the stop that it is.

    Lightning exits where `Stopped` was lost: Python drops what is raised while it closes a file that nobody holds any
    more, as Lightning's CSV logger leaves them. In a process that a launcher began, Lightning alone minds the signal.
    """
    try:
        yield
    except SIGTERMException:
        raise Stopped(signal.SIGTERM) from None


def _have(users: list[str]) -> str:
    """The names of users and a verb, for a line.

    Examples:
        >>> _have(["ann"]), _have(["ann", "bob"])
        ('user ann has', 'users ann, bob have')
    """
    if len(users) == 1:
        return f"user {users[0]} has"
    more = f" and {len(users) - SHOWN} more" if len(users) > SHOWN else ""
    return f"users {', '.join(users[:SHOWN])}{more} have"
