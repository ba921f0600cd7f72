"""The results of one draw of one user: a pure function of experts and the server's priors, run in any process."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from functools import partial
from hashlib import sha256
from itertools import product

import numpy as np
import torch

from dua_lightning import server, user
from dua_lightning.adapt.adabn import one_is_too_few
from dua_lightning.adapt.base import Adapt, NormalisesTogether, OfExperts, OfServer, asks
from dua_lightning.adapt.cost import Cost
from dua_lightning.data.benchmark import Benchmark
from dua_lightning.data.images import sizes
from dua_lightning.data.user import UserData
from dua_lightning.engines import Shared, Work
from dua_lightning.errors import DivergedError, InputError
from dua_lightning.merge import Merge, ServerStatistics
from dua_lightning.merge.base import check_head, check_norms, shared
from dua_lightning.params import State, body_names, clone
from dua_lightning.privacy.release import Sent, send
from dua_lightning.privacy.release.base import size
from dua_lightning.privacy.where import MergeCost, Metered
from dua_lightning.progress import stage
from dua_lightning.run import training
from dua_lightning.run.network import build_network
from dua_lightning.run.recipes import MEASURES, Recipes
from dua_lightning.run.rows import Row, rows
from dua_lightning.run.settings import SeedSettings
from dua_lightning.store.store import Store, digest
from dua_lightning.store.tensorfile import Tensors, fingerprint
from dua_lightning.tasks import Expert, Prior, Task, UserModel

CHANGED = "the pictures have changed since the run began; run again"
"""The error of a process that is to compute results of others than it has read."""


@dataclass(frozen=True)
class Draw:
    """One Monte-Carlo draw of one user, for some rows.

    Args:
        place: The user's place in the benchmark, from 0.
        iteration: The Monte-Carlo iteration, from 1.
        rows: The places of the rows.
        content: The digest `Draws.pictures` of the users' data, which are read anew in every process.
    """

    place: int
    iteration: int
    rows: tuple[int, ...]
    content: str


@dataclass(frozen=True)
class Result:
    """The result of one row for one draw.

    Args:
        R: The accuracy matrix `(N, N)` in percent.
        costs: The cost of each adaptation and its task.
        by_confidence: The number of pictures that each task has got by the experts' confidence; empty where the user's
            pictures have tasks of their own.
        sent: The facts about the prior of each task that the user sent; empty where it was sent as it was measured, or
            none was.
        merging: The cost of merging all experts; `None` where a store of an earlier version has the result.
    """

    R: np.ndarray
    costs: list[tuple[Task, Cost]]
    by_confidence: tuple[int, ...] = ()
    sent: tuple[Sent, ...] = ()
    merging: MergeCost | None = None

    def tensors(self, tasks: tuple[Task, ...]) -> Tensors:
        """Turn the result into tensors for the store, which name a task by its place.

        Args:
            tasks: The benchmark's tasks.

        Returns:
            The tensors by name.
        """
        sent = torch.tensor([astuple(one) for one in self.sent], dtype=torch.float64)
        return {
            "R": torch.tensor(self.R),
            "tasks": torch.tensor([tasks.index(task) for task, _ in self.costs], dtype=torch.int64),
            "costs": torch.tensor([astuple(cost) for _, cost in self.costs], dtype=torch.float64),
            "by_confidence": torch.tensor(self.by_confidence, dtype=torch.int64),
            **({"sent": sent} if self.sent else {}),
            **({"merging": torch.tensor(astuple(self.merging), dtype=torch.float64)} if self.merging else {}),
        }

    @staticmethod
    def of(tensors: Tensors, tasks: tuple[Task, ...]) -> "Result":
        """Read the result from the tensors that `tensors` has made.

        Args:
            tensors: The tensors by name.
            tasks: The benchmark's tasks.

        Returns:
            The result.
        """
        costs = zip(tensors["tasks"].tolist(), tensors["costs"].tolist(), strict=True)
        return Result(
            tensors["R"].numpy().copy(),
            [(tasks[place], Cost(int(trainable), int(size), *rest)) for place, (trainable, size, *rest) in costs],
            tuple(tensors["by_confidence"].tolist()),
            tuple(_sent(*facts) for facts in tensors["sent"].tolist()) if "sent" in tensors else (),
            _merging(*tensors["merging"].tolist()) if "merging" in tensors else None,
        )


class Draws:
    """All rows of one seed on one benchmark, ready to be computed for any user.

    They are made of the settings alone, so that every process that makes them has the same.

    Args:
        settings: The seed's settings.
        say: A function that is given the store's lines.

    Raises:
        InputError: The data or the network cannot give a row.
    """

    def __init__(self, settings: SeedSettings, say: Callable[[str], None] | None = None) -> None:
        self.settings = settings
        self.rows = rows(settings)
        seed = settings.seed
        self.benchmark = _benchmark(settings)
        shape, classes = self.benchmark.shape, self.benchmark.classes
        self.net = build_network(settings.model.node, settings.model.place, shape, classes, seed)
        labelled = any(someone.labelled for someone in self.known_users)
        for row in self.rows:
            row.check(self.net, labelled)
            self._check_merge(row)
        self.start: State = clone(self.net.state_dict())
        self.device = training.device(settings.training)
        self._moved: dict[str, Tensors] = {}
        self._statistics: dict[str, dict[str, State]] = {}
        self._sent: dict[tuple[str, str, str], Adapt] = {}
        self.store = Store(settings.store_dir) if say is None else Store(settings.store_dir, say)
        self.recipes = Recipes(settings, self.start, self.benchmark)

    @property
    def known_users(self) -> Sequence[UserData]:
        """The users who are there; of a population, which makes each user when it is visited, the first one."""
        users = self.benchmark.users
        return users if isinstance(users, tuple) else users[:1]

    def check_sizes(self) -> None:
        """Refuse batches of one picture where the network cannot normalise a single one.

        Raises:
            InputError: Somebody has such a batch; the message names them, the task, and the number of pictures.
        """
        if not one_is_too_few(self.net, self.benchmark.shape):
            return
        why = f"model={self.settings.model.name} normalises one number for each channel, which has no variance"
        for of_task in self.benchmark.server:
            name, count = of_task.task.name, len(of_task.train)
            if min(sizes(of_task.train_dataloader())) < 2:
                raise InputError(
                    f"data.batch_size={of_task.batch_size} cannot be used: the server's {count} training pictures of "
                    f"task {name} would have a batch of a single one, and {why}; use larger batches"
                )
            if len(of_task.validation) < 2 and any(isinstance(row.statistics, ServerStatistics) for row in self.rows):
                raise InputError(
                    f"statistics=server cannot be used: the server has a single validation picture of task {name}, and "
                    f"{why}; give it more pictures"
                )
        draws = [someone.draw(n) for someone in self.known_users for n in range(1, self.benchmark.iterations + 1)]
        for data, task in product(draws, self.benchmark.tasks):
            batches = sizes(data.of(task).train_dataloader())
            for row in self.rows if batches else ():
                if not self.takes(row, data):
                    continue
                if isinstance(row.phi, NormalisesTogether) and row.phi.normalised_together(batches) < 2:
                    raise InputError(
                        f"adapt={row.adapt} cannot be used: the pictures of task {task.name} that user {data.user} "
                        f"adapts on, {sum(batches)} in number, come in batches of {data.batch_size}, and {why}; give "
                        "more pictures or a larger data.user_batch_size, or use adapt=none"
                    )

    def work(self) -> Work:
        """Describe for an engine how another process makes the same worker.

        Returns:
            The work.
        """
        items = len(self.benchmark.users) * self.benchmark.iterations
        return Work(
            digest(repr(self.settings)), partial(_made_of, self.settings), self.compute, items, self.device.type
        )

    def content(self) -> str:
        """Compute the digest of everything that all results are made of, without making any.

        Returns:
            The SHA-256 of the keys of the recipes of all results, in hexadecimal.
        """
        found = sha256()
        for data in self.benchmark.users:
            for iteration in range(1, self.benchmark.iterations + 1):
                for row in (row for row in self.rows if self.takes(row, data)):
                    found.update(self.recipes.result(row, data.draw(iteration)).key.encode())
        return found.hexdigest()

    @staticmethod
    def takes(row: Row, data: UserData) -> bool:
        """Tell whether a row takes a user: it leaves out those who lack the labels or the scored images that it needs.

        Args:
            row: The row.
            data: The user's data.

        Returns:
            Whether it does.
        """
        return (data.labelled or not row.needs_labels) and not (row.prior == "oracle" and data.unscored)

    def data(self, draw: Draw) -> UserData:
        """Give the user's data in the halves of a draw.

        Args:
            draw: The draw.

        Returns:
            The data.

        Raises:
            InputError: They are not those that the draw was made for.
        """
        data = self.benchmark.users[draw.place].draw(draw.iteration)
        if self.pictures(data) != draw.content:
            raise InputError(CHANGED)
        return data

    def pictures(self, data: UserData) -> str:
        """Compute the digest of all users' data that a draw's results are made of.

        Args:
            data: The user's data in the halves of the draw.

        Returns:
            The SHA-256 in hexadecimal.
        """
        if any(row.prior == "other" for row in self.rows):
            return digest({"user": data.recipe(), "other": self.benchmark.after(data).recipe()})
        return digest(data.recipe())

    def compute(self, draw: Draw, shared: Shared) -> tuple[list[Result], float]:
        """Compute the results of a draw's rows.

        Args:
            draw: The draw.
            shared: Experts and the server's priors, by the keys of their recipes.

        Returns:
            The results in the order of `draw.rows`, and the seconds they took.
        """
        began = time.perf_counter()
        # A training in this process leaves the network in the processor's memory.
        self.net.to(self.device)
        data = self.data(draw)
        own_priors: dict[str, list[Prior]] = {}
        divided: dict[str, tuple[UserData, tuple[int, ...]]] = {}
        found = [self._result(self.rows[place], data, own_priors, divided, shared) for place in draw.rows]
        return found, time.perf_counter() - began

    def personal(self, row: Row, data: UserData, shared: Shared) -> tuple[dict[str, State], UserData]:
        """Compute the final states of a user, those that `compute` evaluates after the last task.

        Args:
            row: The row.
            data: The user's data in the halves of a draw.
            shared: Experts and the server's priors, by the keys of their recipes.

        Returns:
            The adapted state that serves each task, by the task's name, and the data with a task for every picture.
        """
        self.net.to(self.device)
        with _named(row, data):
            experts = self._experts(row, shared)
            data, _ = self._sorted(experts, data)
            priors, _ = self._priors(row, experts, data, {}, shared)
            model = self.merged(row, priors, shared)
            of = {expert.task.name: expert for expert in experts}
            phi = self._phi(row, experts)
            states = {
                task: user.personalise(self.net, of[task], state, phi, data, self._informed)[0]
                for task, state in model.items()
            }
            return states, data

    def merged(self, row: Row, priors: Sequence[Prior], shared: Shared) -> UserModel:
        """Merge all experts into the personal model that a user is sent, before any adaptation.

        Args:
            row: The row.
            priors: The prior of each expert; where the server measures them, those among `shared` take their place.
            shared: Experts and the server's priors, by the keys of their recipes.

        Returns:
            The state that serves each task, by the task's name.
        """
        self.net.to(self.device)
        if row.prior == "server":
            priors = unnamed(self._here(self.recipes.priors(row, None).key, shared))
        ((_, model),) = self._models(row, row.chi, self._experts(row, shared), [*priors], last_alone=True)
        return model

    def server_priors(self, row: Row, experts: tuple[Expert, ...], keep: bool) -> Tensors:
        """Measure the server's priors on its own data.

        Args:
            row: A row with such priors.
            experts: The row's experts.
            keep: Whether the store keeps them; where it has them, they are taken from there.

        Returns:
            The priors, as `named` turns them into tensors.
        """

        def measured() -> Tensors:
            assert row.psi is not None
            here = [Expert(e.task, {name: t.to(self.device) for name, t in e.state.items()}) for e in experts]
            net = self.net.to(self.device)
            with stage(f"seed {self.settings.seed}: the server measures {row.importance}"):
                return named(server.measure(row.psi, net, here, self.benchmark.server, row.training_data_too))

        return self.store.once(self.recipes.priors(row, None), measured) if keep else measured()

    def _check_merge(self, row: Row) -> None:
        if row.chi.keeps_statistics:
            return
        state, body = self.net.state_dict(), body_names(self.net)
        refused = f"{row.label} cannot merge this model"
        try:
            check_norms(state)
        except InputError as error:
            raise InputError(f"{refused}: {error}") from error
        try:
            check_head(self.benchmark.tasks, state, body)
        except InputError as error:
            raise InputError(f"{refused}: {error}, or name it by +model.head=NAME") from error
        if row.chi.needs_prior:
            return
        # Without priors, which name the weights of the body, a merge takes all that a state names outside the head.
        weights = {name for name, _ in self.net.named_parameters(remove_duplicate=False)}
        if tied := [name for name in shared(state) if name in weights and name not in body]:
            raise InputError(
                f"{refused}: {tied[0]} is a weight of the head too, which each task has as "
                "its own; use a network whose head has its own weights, or a merge with priors"
            )

    def _result(
        self,
        row: Row,
        data: UserData,
        own_priors: dict[str, list[Prior]],
        divided: dict[str, tuple[UserData, tuple[int, ...]]],
        shared: Shared,
    ) -> Result:
        with _named(row, data):
            experts = self._experts(row, shared)
            # The last expert's recipe tells those before it.
            key = self.recipes.experts(row)[-1].key
            if key not in divided:
                divided[key] = self._sorted(experts, data)
            data, by_confidence = divided[key]
            priors, sent = self._priors(row, experts, data, own_priors, shared)
            merging: list[MergeCost] = []
            models = self._metered(row, experts, priors, self._bytes(row, experts, data, priors, sent), merging)
            phi = self._phi(row, experts)
            R, costs = user.evaluate(self.net, experts, models, phi, data, self._informed)
            return Result(R, costs, by_confidence, tuple(sent), merging[0])

    def _phi(self, row: Row, experts: tuple[Expert, ...]) -> Adapt:
        """The row's adaptation, with all experts where it asks for them."""
        return row.phi.with_experts(experts, self._start()) if isinstance(row.phi, OfExperts) else row.phi

    def _informed(self, phi: Adapt, task: Task, state: State) -> Adapt:
        """The adaptation with what the server measures for it, once for all users who are sent the same state."""
        if not (asks(phi, OfServer) and isinstance(phi, OfServer)):
            return phi
        key = repr(phi), task.name, fingerprint(state)
        if key not in self._sent:
            of_task = next(one for one in self.benchmark.server if one.task == task)
            self._sent[key] = phi.with_server(self.net, state, task, of_task.val_dataloader())
        return self._sent[key]

    def _start(self) -> State:
        return self._here("start", {"start": self.start})

    def _experts(self, row: Row, shared: Shared) -> tuple[Expert, ...]:
        return joined(self.benchmark.tasks, [self._here(recipe.key, shared) for recipe in self.recipes.experts(row)])

    def _sorted(self, experts: tuple[Expert, ...], data: UserData) -> tuple[UserData, tuple[int, ...]]:
        """The data with a task for every picture, and how many of each task have got it by the experts' confidence."""
        if data.unsorted is None:
            return data, ()
        places = user.tasks_by_confidence(self.net, experts, data.unsorted_batches())
        return data.with_tasks(places), tuple(places.bincount(minlength=len(experts)).tolist())

    def _here(self, key: str, shared: Shared) -> Tensors:
        """Shared tensors on the device of this run; on the processor the very tensors."""
        if key not in shared:
            raise InputError(CHANGED)
        if self.device.type == "cpu":
            return shared[key]
        if key not in self._moved:
            self._moved[key] = {name: tensor.to(self.device) for name, tensor in shared[key].items()}
        return self._moved[key]

    def _priors(
        self,
        row: Row,
        experts: tuple[Expert, ...],
        data: UserData,
        own_priors: dict[str, list[Prior]],
        shared: Shared,
    ) -> tuple[list[Prior], list[Sent]]:
        """Give the priors that the server gets: a user measures them once for all rows, the server once for all users.

        With them come the facts about those that a release has made.
        """
        psi = row.psi
        if psi is None:
            return [], []
        if row.prior == "server":
            return unnamed(self._here(self.recipes.priors(row, None).key, shared)), []
        if row.prior == "other":
            data, _ = self._sorted(experts, self.benchmark.after(data))
        recipe = self.recipes.priors(row, data)
        if recipe.key not in own_priors:
            measured = partial(MEASURES[row.prior], psi, self.net, experts, data)
            # A clipped prior names a tied weight's tensor twice, and the store would make two of it.
            if self.settings.keep_priors and not row.clipped:
                kept = self.store.once(recipe, lambda: named(measured()))
                own_priors[recipe.key] = unnamed({name: omega.to(self.device) for name, omega in kept.items()})
            else:
                own_priors[recipe.key] = measured()
        priors = own_priors[recipe.key]
        if row.release is None:
            return priors, []
        images = [len(data.of(expert.task).validation) for expert in experts]
        return send(row.release, priors, images, self.settings.seed, data.user, data.iteration)

    def _bytes(
        self, row: Row, experts: tuple[Expert, ...], data: UserData, priors: list[Prior], sent: list[Sent]
    ) -> int:
        """The bytes of the priors of whoever measured them on pictures of their own; nothing is sent for no picture."""
        if row.prior in ("server", "none"):
            return 0
        if row.release is not None:
            return sum(one.sent for one in sent)
        return sum(size(omega) for omega, e in zip(priors, experts, strict=True) if len(data.of(e.task).validation))

    def _metered(
        self, row: Row, experts: tuple[Expert, ...], priors: list[Prior], sent: int, merging: list[MergeCost]
    ) -> Iterator[tuple[int, UserModel]]:
        """The models; the cost of that of all experts is added to `merging`."""
        chi = Metered(row.chi, on_device=row.where == "device")
        for t, model in self._models(row, chi, experts, priors, row.last_alone):
            if t == len(experts):
                merging.append(chi.cost(sent, experts if row.sends_experts else (), model))
            yield t, model

    def _models(
        self, row: Row, chi: Merge, experts: tuple[Expert, ...], priors: list[Prior], last_alone: bool
    ) -> Iterator[tuple[int, UserModel]]:
        N, start = len(experts), self._start()
        merged = (
            [(N, chi(experts, priors, start))] if last_alone else server.merge_prefixes(chi, experts, priors, start)
        )
        for t, model in merged:
            yield t, self._with_statistics(row, experts[:t], model)

    def _with_statistics(self, row: Row, experts: tuple[Expert, ...], model: UserModel) -> UserModel:
        """The step after the merge; it is taken once for all users where their priors have no say in the merge."""
        if row.statistics is None:
            return model
        if row.prior not in ("server", "none"):
            return row.statistics(self.net, experts, model, self.benchmark.server)
        states = [recipe.key for recipe in self.recipes.experts(row)]
        key = repr([states, len(experts), row.prior, row.training_data_too, {**row.settings, "phi": None}])
        if key not in self._statistics:
            whole = row.statistics(self.net, experts, model, self.benchmark.server)
            # A merge takes little time, and its states much memory.
            self._statistics[key] = {
                task: {name: tensor for name, tensor in state.items() if tensor is not model[task][name]}
                for task, state in whole.items()
            }
        return {task: {**model[task], **own} for task, own in self._statistics[key].items()}


@contextmanager
def _named(row: Row, data: UserData) -> Iterator[None]:
    """Name row and user in the refusals of the block."""
    try:
        yield
    except DivergedError as error:
        raise InputError(f"{row.label}, user {data.user}: {error}, adapt.lr") from error
    except InputError as error:
        raise InputError(f"{row.label}, user {data.user}: {error}") from error


def joined(tasks: Sequence[Task], states: Sequence[State]) -> tuple[Expert, ...]:
    """Give each task its expert; a state that serves all tasks (Joint training) is the expert of each.

    Args:
        tasks: The tasks.
        states: The state of each task's expert, or one for all.

    Returns:
        The experts in the order of the tasks.
    """
    return tuple(map(Expert, tasks, [*states] * len(tasks) if len(states) < len(tasks) else states))


def _sent(images: float, plain: float, sent: float, epsilon: float, delta: float) -> Sent:
    return Sent(int(images), int(plain), int(sent), epsilon, delta)


def _merging(up: float, down: float, *rest: float) -> MergeCost:
    return MergeCost(int(up), int(down), *rest)


def named(priors: Sequence[Prior]) -> Tensors:
    """Turn priors into one entry of the store: each weight's name behind the place of its expert.

    Args:
        priors: The prior of each expert.

    Returns:
        The tensors by name.
    """
    return {f"{t}/{name}": omega for t, prior in enumerate(priors) for name, omega in prior.items()}


def unnamed(tensors: Mapping[str, torch.Tensor]) -> list[Prior]:
    """Read the priors from an entry that `named` has made.

    Args:
        tensors: The tensors by name.

    Returns:
        The prior of each expert.
    """
    priors: dict[str, Prior] = {}
    for name, omega in tensors.items():
        t, _, weight = name.partition("/")
        priors.setdefault(t, {})[weight] = omega
    return [priors[t] for t in sorted(priors, key=int)]


def _benchmark(settings: SeedSettings) -> Benchmark:
    """The benchmark, with the simulated users in the place of its own where there are some."""
    made: Benchmark = settings.data.build(Benchmark, seed=settings.seed)
    if settings.simulate.node.get("_target_") is None:
        return made
    # Its transforms are loaded for it alone.
    from dua_lightning.data.simulated import Simulated

    simulate: Simulated = settings.simulate.build(Simulated)
    return simulate(made)


def _made_of(settings: SeedSettings) -> Callable[[Draw, Shared], tuple[list[Result], float]]:
    # The parent has read the same data, and has named what was left out.
    logging.getLogger("dua_lightning.data").setLevel(logging.ERROR)
    return Draws(settings).compute
