"""What makes an expert, a prior and a result: all that their bits depend on, and nothing else."""

import inspect
from typing import Any

import torch

from dua_lightning.data.benchmark import Benchmark
from dua_lightning.data.user import UserData
from dua_lightning.params import State
from dua_lightning.run.build import target
from dua_lightning.run.rows import Row
from dua_lightning.run.settings import SeedSettings
from dua_lightning.store import versions as code
from dua_lightning.store.store import Recipe, digest
from dua_lightning.store.tensorfile import fingerprint

IRRELEVANT = {"model": ("weights",), "trainer": ("checkpoint_seconds",)}
"""Settings that change no bit: the start's weights are digested wherever they lie, and a checkpoint is only kept."""


class Recipes:
    """The recipes of one seed on one benchmark; training starts from the weights `start`.

    An expert stands for its content in what is made of it: the same recipe gives the same bits. Numbers of users and
    draws, other rows, names, folders, loggers and threads are in no recipe.
    """

    def __init__(self, of_seed: SeedSettings, start: State, benchmark: Benchmark) -> None:
        settings = {
            group: {key: value for key, value in getattr(of_seed, group).plain().items() if key not in names}
            for group, names in IRRELEVANT.items()
        }
        if settings["trainer"].get("devices", 1) is None:
            # All GPUs: how many they are is in the bits.
            settings["trainer"]["devices"] = torch.cuda.device_count()
        self._common = {"code": code.version(code.EXPERTS), "start": fingerprint(start), **settings}
        self._data = [data.recipe() for data in benchmark.server]

    def experts(self, row: Row) -> list[Recipe]:
        """Of each expert in the order of training; of the one model for all tasks where it is trained jointly."""
        regulariser = row.settings["regulariser"]
        if row.training == "joint":
            return [self._expert(self._data, regulariser, "joint")]
        # No regulariser acts on the first task: its expert is shared by all of them.
        count = len(self._data)
        return [self._expert(self._data[:t], regulariser if t > 1 else {}, "sequential") for t in range(1, count + 1)]

    def priors(self, row: Row, user: UserData | None) -> Recipe:
        """Of what the user measures of the row's experts, or, without a user, the server."""
        of = {"server_training_data": row.training_data_too} if user is None else user.recipe()
        # Importances do not depend on how data are cut into batches.
        of.pop("batch_size", None)
        psi = row.settings["psi"]
        return Recipe("priors", _with_code(code.PRIORS, experts=self._keys(row), psi=psi, of=of))

    def result(self, row: Row, user: UserData) -> Recipe:
        """Of the accuracies and costs of one row for one draw of a user."""
        values = {
            "experts": self._keys(row),
            "prior": row.prior,
            "psi": row.settings["psi"],
            "server_training_data": row.prior == "server" and row.training_data_too,
            "chi": row.settings["chi"],
            "statistics": row.settings["statistics"],
            "phi": row.settings["phi"],
            "user": user.recipe(),
        }
        return Recipe("results", _with_code(code.RESULTS, **values))

    def _expert(self, data: list[dict[str, Any]], regulariser: dict[str, Any], training: str) -> Recipe:
        return Recipe("experts", _with_code((), **self._common, data=data, regulariser=regulariser, training=training))

    def _keys(self, row: Row) -> list[str]:
        return [recipe.key for recipe in self.experts(row)]


def _with_code(parts: tuple[str, ...], **values: Any) -> dict[str, Any]:
    """The values, the version of our code that uses them, and that of anybody else's that they name."""
    ours = {"code": code.version(parts)} if parts else {}
    theirs = {
        name: digest(_source(target(name)[0]))
        for name in sorted(_targets(values))
        if not name.startswith("dua_lightning.")
    }
    return {**ours, **values, **({"their_code": theirs} if theirs else {})}


def _source(made: Any) -> str:
    """Of the module that has it; nothing for what is compiled."""
    try:
        return inspect.getsource(inspect.getmodule(made) or object)
    except (OSError, TypeError):
        return ""


def _targets(value: Any) -> set[str]:
    if isinstance(value, list):
        return {target for item in value for target in _targets(item)}
    if isinstance(value, dict):
        own = {value["_target_"]} if isinstance(value.get("_target_"), str) else set()
        return own | {target for item in value.values() for target in _targets(item)}
    return set()
