"""The factorisation of the first layer against a run's priors, tried on users that the server simulates.

The pictures are the server's own validation pictures, and the experts those of the run. Of a user's pictures only the
number is used.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median

import torch
from torch import nn

from dua_lightning.errors import InputError
from dua_lightning.importance import FIM, MAS, Averaged, Clipped, Importance
from dua_lightning.privacy.attacks.base import Known
from dua_lightning.privacy.attacks.factorisation import correlations, factorise, matched
from dua_lightning.privacy.release.base import size
from dua_lightning.progress import stage
from dua_lightning.report.card import CLOSE
from dua_lightning.report.ledger import NULLS
from dua_lightning.report.statistics import interval
from dua_lightning.run.draws import Draws, joined
from dua_lightning.run.finished import again, read
from dua_lightning.run.rows import Row
from dua_lightning.streams import generator
from dua_lightning.tasks import Expert

USERS = 3
"""The number of simulated users, each of the next task."""
MOST = 50
"""The largest number of pictures that a simulated user has: more make the attack slower, and weaker."""
ITERATIONS = 100
"""Iterations of the factorisation: some seconds for a row. The study of attacks has many more."""
NO_ATTACK = "no attack of ours applies; that is no guarantee"
"""The words on priors of networks that do not read a picture by a linear layer, and of other importances."""


@dataclass(frozen=True)
class Attacked:
    """The result of an attack on the priors of a row.

    Args:
        attack: The attack, or why there is none.
        sent: The bytes of the numbers of one prior that is sent; NaN where none was measured.
        images: The number of pictures that each simulated user measured on: the median of the run's users and tasks,
            but not more than `MOST`, nor than half of what the server has of a task.
        users: The number of simulated users.
        recovered: The percent of their pictures that came back with a correlation above `CLOSE`, the mean over users.
        half: Half its 95 % t interval over users.
        best: The largest correlation.
        control: The percent of as many other pictures.
    """

    attack: str
    sent: float = math.nan
    images: float = math.nan
    users: float = math.nan
    recovered: float = math.nan
    half: float = math.nan
    best: float = math.nan
    control: float = math.nan


def attacked(run: Path) -> Iterator[tuple[str, Attacked]]:
    """Try the attack on each row of a run with the user's own prior, of its first seed.

    Args:
        run: The run's folder.

    Yields:
        The row's label, and what the attack got.

    Raises:
        InputError: The run's settings or pictures cannot be read, or the store has no longer its experts.
    """
    with stage("loading the data"):
        draws = Draws(read(run)[0])
    found: dict[str, Attacked] = {}
    for row in draws.rows:
        if row.prior != "user" or row.psi is None or row.importance in NULLS or row.where != "server":
            continue
        # Rows of other merges, statistics and adaptations send the same.
        key = repr([draws.recipes.experts(row)[-1].key, row.settings["psi"], row.settings["release"]])
        if key not in found:
            with stage(f"attacking the priors of {row.label}"):
                found[key] = _attacked(draws, row, _experts(draws, row, run))
        yield row.label, found[key]


def _attacked(draws: Draws, row: Row, experts: tuple[Expert, ...]) -> Attacked:
    psi, net = row.psi, draws.net.to(draws.device)
    assert psi is not None
    measured = _within(psi)
    applies = isinstance(measured, MAS | FIM) and _reads_pictures(net, draws.benchmark.shape)
    wanted = min(MOST, _pictures(draws))
    found, sent = [], []
    for user in range(USERS if applies else 1):
        expert = experts[user % len(experts)]
        pictures = draws.benchmark.server[user % len(experts)].validation
        n = max(1, min(wanted, len(pictures) // 2))
        stream = generator(draws.settings.seed, "attacked", user)
        order = torch.randperm(len(pictures), generator=stream)
        own, others = pictures[order[:n]], pictures[order[n : 2 * n]]
        prior = psi(net, expert, [(own.inputs(), own.labels)])
        sent.append(size(prior))
        if row.release is not None:
            try:
                released = row.release(prior, n, stream)
            except InputError as error:
                return Attacked(f"nothing is sent: {error}")
            prior, sent[-1] = released.prior, released.sent
        if not applies:
            return Attacked(NO_ATTACK, sent[0])
        guesses = factorise(Known(net, expert, measured, prior, n), iterations=ITERATIONS).inputs
        found.append([matched(correlations(guesses, one.inputs().abs()))[0] for one in (own, others)])
    shares = [[100 * float((correlated > CLOSE).mean()) for correlated in pair] for pair in found]
    recovered, control = zip(*shares, strict=True)
    return Attacked(
        attack="factorisation of the first layer",
        sent=float(median(sent)),
        images=n,
        users=USERS,
        recovered=float(mean(recovered)),
        half=float(interval(recovered).half),
        best=max(float(own.max()) for own, _ in found),
        control=float(mean(control)),
    )


def _experts(draws: Draws, row: Row, run: Path) -> tuple[Expert, ...]:
    states = [draws.store.get(recipe) for recipe in draws.recipes.experts(row)]
    there = [{name: tensor.to(draws.device) for name, tensor in state.items()} for state in states if state]
    if len(there) < len(states):
        raise InputError(f"the store {draws.store.root} has no longer the experts of {row.label}; {again(run)}")
    return joined(draws.benchmark.tasks, there)


def _pictures(draws: Draws) -> int:
    """The number of pictures that a user measures a task's prior on: the median of users and tasks that have any."""
    tasks = draws.benchmark.tasks
    users = [user.draw(1) for user in draws.known_users]
    counts = [len(user.unsorted) // len(tasks) for user in users if user.unsorted is not None]
    counts += [len(user.of(task).validation) for user in users if user.unsorted is None for task in tasks]
    return int(median([count for count in counts if count] or [1]))


def _within(psi: Importance) -> Importance:
    """The importance that others average or clip."""
    while isinstance(psi, Averaged | Clipped):
        psi = psi.of
    return psi


def _reads_pictures(net: nn.Module, shape: Sequence[int]) -> bool:
    """Whether the first layer with weights is a linear one that reads a whole picture."""
    first = next((module for module in net.modules() if [*module.parameters(recurse=False)]), None)
    return isinstance(first, nn.Linear) and first.in_features == math.prod(shape)
