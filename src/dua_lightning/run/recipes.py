"""The recipes of experts, priors and results: everything that their bits depend on, and nothing else."""

from collections.abc import Sequence
from typing import Any

import torch

from dua_lightning.adapt.base import OfServer, asks
from dua_lightning.data.benchmark import Benchmark
from dua_lightning.data.user import UserData
from dua_lightning.params import State
from dua_lightning.privacy.release import send
from dua_lightning.privacy.where import Metered
from dua_lightning.run import training
from dua_lightning.run.build import targets
from dua_lightning.run.rows import Row
from dua_lightning.run.settings import SeedSettings
from dua_lightning.server import measure, merge_prefixes, train_experts
from dua_lightning.store.store import Recipe
from dua_lightning.store.tensorfile import fingerprint
from dua_lightning.store.versions import Used, version
from dua_lightning.user import evaluate, measure_oracle, tasks_by_confidence
from dua_lightning.user import measure as measure_on_device

ALL_DEVICES = (-1, "-1", "auto")
"""Values of `trainer.devices` that stand for as many as there are."""
MEASURES = {"user": measure_on_device, "other": measure_on_device, "oracle": measure_oracle}
"""The functions that measure priors on a user's images, by the one who measures."""


class Recipes:
    """The recipes of one seed on one benchmark.

    A recipe names an expert by its own recipe's key, since the same recipe gives the same bits. Numbers of users and
    draws, other rows, names, folders, loggers and threads are in no recipe.

    Args:
        settings: The seed's settings.
        start: The weights that training starts from.
        benchmark: The benchmark.
    """

    def __init__(self, settings: SeedSettings, start: State, benchmark: Benchmark) -> None:
        asked = settings.training
        trainer = {key: value for key, value in asked.trainer.plain().items() if key not in training.HARMLESS}
        if trainer.get("devices") in ALL_DEVICES:
            trainer["devices"] = torch.cuda.device_count()
        if trainer.get("accelerator", "auto") == "auto":
            trainer["accelerator"] = training.device(asked).type
        # The weights at the start are digested themselves, wherever they came from.
        model = {key: value for key, value in settings.model.plain().items() if key != "weights"}
        self._training = {
            "start": fingerprint(start),
            "model": model,
            "trainer": trainer,
            "optimizer": asked.optimizer.plain(),
            "scheduler": asked.scheduler.plain(),
            "callbacks": [choice.plain() for choice in asked.callbacks.values()],
            "reset_batch_norm": asked.reset_batch_norm,
        }
        # On another device rounding differs.
        self._device = {"accelerator": trainer["accelerator"]}
        self._data = [data.recipe() for data in benchmark.server]
        self._data_class = type(benchmark.server[0])
        self._benchmark = benchmark

    def experts(self, row: Row) -> list[Recipe]:
        """Give the recipes of a row's experts.

        Args:
            row: The row.

        Returns:
            One for each expert in the order of training; a single one where one model is trained jointly for all tasks.
        """
        regulariser = row.settings["regulariser"]
        if row.training == "joint":
            return [self._expert(self._data, regulariser, "joint")]
        # Classes that declare themselves that they do nothing on the first task share its expert.
        acts = vars(type(row.regulariser)).get("acts_on_first_task", True)
        first = regulariser if acts else {}
        count = len(self._data)
        return [
            self._expert(self._data[:t], regulariser if t > 1 else first, "sequential") for t in range(1, count + 1)
        ]

    def priors(self, row: Row, data: UserData | None) -> Recipe:
        """Give the recipe of the priors of a row's experts.

        Args:
            row: The row.
            data: The data of the user who measures them, or whose evaluation images an oracle measures them on; `None`
                for the server.

        Returns:
            The recipe.
        """
        of: dict[str, Any] = {"server_training_data": row.training_data_too} if data is None else data.recipe()
        # Importances do not depend on how data are cut into batches.
        of.pop("batch_size", None)
        if row.prior == "oracle":
            of["half"] = "evaluation"
        if row.clipped:
            of["release"] = row.settings["release"]
        psi = row.settings["psi"]
        used: list[Used] = [measure, self._data_class] if data is None else [MEASURES[row.prior], type(data)]
        return Recipe("priors", _with_code(used, experts=self._keys(row), psi=psi, of=of, **self._device))

    def result(self, row: Row, data: UserData) -> Recipe:
        """Give the recipe of the accuracies and costs of one row for one draw of a user.

        Args:
            row: The row.
            data: The user's data in the halves of the draw.

        Returns:
            The recipe.
        """
        values = {
            "experts": self._keys(row),
            "prior": row.prior,
            "psi": row.settings["psi"],
            "server_training_data": row.prior == "server" and row.training_data_too,
            "chi": row.settings["chi"],
            "statistics": row.settings["statistics"],
            "phi": row.settings["phi"],
            "last_alone": row.last_alone,
            "user": data.recipe(),
            **self._device,
        }
        if row.prior == "other":
            values["measured_on"] = self._benchmark.after(data).recipe()
        used: list[Used] = [merge_prefixes, evaluate, type(data)]
        if row.release is not None:
            values["release"] = row.settings["release"]
            used.append(send)
        if row.where != "server":
            used.append(Metered)
        if data.unsorted is not None:
            used.append(tasks_by_confidence)
        if row.psi is not None:
            used += [measure, self._data_class] if row.prior == "server" else [MEASURES[row.prior]]
        if row.statistics is not None or asks(row.phi, OfServer):
            used.append(self._data_class)
        return Recipe("results", _with_code(used, **values))

    def _expert(self, data: list[dict[str, Any]], regulariser: dict[str, Any], order: str) -> Recipe:
        used: list[Used] = [train_experts, self._data_class]
        values = {**self._training, "data": data, "regulariser": regulariser, "training": order}
        return Recipe("experts", _with_code(used, **values))

    def _keys(self, row: Row) -> list[str]:
        return [recipe.key for recipe in self.experts(row)]


def _with_code(used: Sequence[Used], **values: Any) -> dict[str, Any]:
    """The values, and the version of all code that makes something of them: what is used, and what they name."""
    return {"made_by": version(*used, *sorted(targets(values))), **values}
