"""NaN anywhere: in a picture of the server or of a user, in an expert or a prior of the store, or in the logits.

No number may come of it: either one line says so, or the accuracies are those without it, since nothing has read it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dua_lightning import server, user
from dua_lightning.adapt import (
    EATA,
    SAR,
    TENT,
    AdaBN,
    AdaBNS,
    Adapt,
    Finetune,
    InformationMaximisation,
    Unchanged,
)
from dua_lightning.data.images import Images
from dua_lightning.errors import InputError
from dua_lightning.importance import FIM, MAS, Importance, Uniform
from dua_lightning.merge import (
    Each,
    Last,
    LastStatistics,
    Mean,
    MeanStatistics,
    Merge,
    Mode,
    ServerStatistics,
    Statistics,
)
from dua_lightning.regularise import NoRegulariser
from dua_lightning.run.draws import named, unnamed
from dua_lightning.store.store import Kind, Recipe, Store
from dua_lightning.tasks import Expert
from dua_lightning.training import fit
from tests.helpers import tiny
from tests.helpers.nets import rows
from tests.helpers.training import training

PLACES = ("a user's picture", "a server's picture", "an expert", "a prior", "the logits", "a training")
CLASSES = 6


@dataclass(frozen=True)
class Trial:
    """A combination of the verbs, the place of the NaN, and the number that decides which entry it is."""

    place: str
    psi: Importance
    chi: Merge
    statistics: Statistics
    phi: Adapt
    seed: int


class Broken(nn.Module):
    """A network whose logits of one class are NaN."""

    def __init__(self, net: nn.Module, column: int) -> None:
        super().__init__()
        self.body, self.head, self.column = net.body, net.head, column

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(x))
        return torch.where(torch.arange(CLASSES) == self.column, torch.nan, logits)


def drawn(count: int) -> list[Trial]:
    random = Random(0)
    return [
        Trial(
            PLACES[seed % len(PLACES)],
            random.choice((MAS(), FIM(labels="true"), Uniform())),
            random.choice((Mode(), Mode(), Mean(), Last(), Each())),
            random.choice((LastStatistics(), MeanStatistics(), ServerStatistics())),
            random.choice(
                (
                    *(Unchanged(), Finetune(epochs=1), AdaBN(), AdaBNS(epochs=1)),
                    *(TENT(), InformationMaximisation(epochs=1), EATA(statistics="given"), SAR(statistics="given")),
                )
            ),
            seed,
        )
        for seed in range(count)
    ]


def verdicts(count: int, folder: Path) -> Iterator[tuple[object, str]]:
    """Trials at random, and what is wrong with how they end."""
    for trial in drawn(count):
        yield trial, _trained(trial) if trial.place == "a training" else _evaluated(trial, folder / str(trial.seed))


def _trained(trial: Trial) -> str:
    random, data = Random(trial.seed), tiny.benchmark().server[0]
    side = random.choice(("train", "validation"))
    setattr(data, side, _holding(getattr(data, side), random))
    try:
        fit(_network(0), data, NoRegulariser(), training(max_epochs=1))
    except InputError as error:
        return _line(error)
    return f"an expert was trained on the {side} pictures"


def _evaluated(trial: Trial, folder: Path) -> str:
    sound = _accuracies(replace(trial, place="nowhere", seed=0), folder / "sound")
    try:
        found = _accuracies(trial, folder / "broken")
    except InputError as error:
        return _line(error)
    return (
        "" if np.array_equal(found, sound, equal_nan=True) else f"accuracies {found.tolist()}, and not {sound.tolist()}"
    )


def _line(error: InputError) -> str:
    return "" if "\n" not in str(error) else f"several lines: {error}"


def _accuracies(trial: Trial, folder: Path) -> np.ndarray:
    random, store, net = Random(trial.seed), Store(folder), _network(0)
    benchmark = tiny.benchmark()
    if trial.place == "a user's picture":
        data = benchmark.users[0]
        at = random.randrange(len(data.images))
        data.images = [_holding(images, random) if i == at else images for i, images in enumerate(data.images)]
    if trial.place == "a server's picture":
        of_task = random.choice(benchmark.server)
        of_task.validation = _holding(of_task.validation, random)
    states = [dict(_network(1 + i).state_dict()) for i in range(len(benchmark.tasks))]
    if trial.place == "an expert":
        at = random.randrange(len(states))
        states[at] = _spoilt(states[at], random)
    kept = [_kept(store, "experts", i, state) for i, state in enumerate(states)]
    experts = [Expert(task, state) for task, state in zip(benchmark.tasks, kept, strict=True)]
    if trial.place == "the logits":
        net = Broken(net, random.randrange(CLASSES))
    data = benchmark.users[0].draw(1)
    priors = []
    if trial.chi.needs_prior:
        measured = named(user.measure(trial.psi, net, experts, data))
        priors = unnamed(_kept(store, "priors", 0, _spoilt(measured, random) if trial.place == "a prior" else measured))
    models = (
        (t, model if trial.chi.keeps_statistics else trial.statistics(net, experts[:t], model, benchmark.server))
        for t, model in server.merge_prefixes(trial.chi, experts, priors, net.state_dict())
    )
    return user.evaluate(net, experts, models, trial.phi, data)[0]


def _network(seed: int) -> nn.Module:
    return rows(tiny.SHAPE, CLASSES, seed)


def _kept(store: Store, kind: Kind, number: int, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, written to a store and read again."""
    recipe = Recipe(kind, {"number": number})
    store.put(recipe, tensors)
    found: Any = store.get(recipe)
    return dict(found)


def _spoilt(tensors: Mapping[str, Tensor], random: Random) -> dict[str, Tensor]:
    """The tensors with a NaN in one entry."""
    name = random.choice([name for name, tensor in tensors.items() if tensor.is_floating_point()])
    tensor = tensors[name].clone()
    tensor.view(-1)[random.randrange(tensor.numel())] = torch.nan
    return {**tensors, name: tensor}


def _holding(images: Images, random: Random) -> Images:
    """The images with a NaN in one channel of one of them, as a table of numbers may hold it."""
    shift = images.shift.clone()
    shift[random.randrange(len(images)), random.randrange(shift.shape[1])] = torch.nan
    return replace(images, shift=shift)
