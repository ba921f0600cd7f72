"""The checks of a run that can be made before data are loaded, the quickest first."""

import os
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

from dua_lightning.engines import Engine
from dua_lightning.errors import InputError
from dua_lightning.run.build import check
from dua_lightning.run.network import build_network
from dua_lightning.run.rows import rows
from dua_lightning.run.settings import SeedSettings, Settings

SIDES, CHANNELS, CLASSES = (32, 64, 224), 3, 10
"""Likely sides of an input in pixels, its channels, and a likely number of classes: a network is tried with them."""

COUNTS = ("batch_size", "user_batch_size", "iterations")
"""Settings of every benchmark that are at least 1."""

OWN_COUNTS = (
    *("tasks", "users", "server_per_class", "user_per_class", "per_task_and_domain", "preferred_categories"),
    *("fewest_images", "most_images"),
)
"""Settings of the benchmarks of this package that are at least 1."""


def refuse(settings: Settings) -> None:
    """Refuse what can be known to fail before data are loaded or a download starts.

    Nothing is computed. Packages that take long to load are loaded after the checks that do without them.

    Args:
        settings: The settings of the run.

    Raises:
        InputError: A choice cannot be made of its settings, is not installed or does not go with another one, a device
            is not there, or the store cannot be written to.
    """
    settings.engine.build(Engine)
    # Seeds differ in nothing that is looked at.
    of_seed = settings.seeds[0]
    _writable(of_seed.store_dir)
    made = rows(of_seed)
    data = of_seed.data.node
    ours = str(data.get("_target_")).partition(".")[0] == __name__.partition(".")[0]
    for name in (*COUNTS, *(OWN_COUNTS if ours else ())):
        if name in data and check(data[name], int, f"data.{name}") < 1:
            raise InputError(f"data.{name}={data[name]} cannot be used: it is at least 1")
    net = _tried(of_seed)
    for row in made:
        row.check(net, data.get("users_labelled") is not False)
    # From here on Lightning is needed.
    from dua_lightning.run import training

    training.make(of_seed.training)
    for row in made:
        _ = row.regulariser


def _writable(folder: Path) -> None:
    """Refuse a folder that cannot be made or written to; nothing is made."""
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    why = "cannot be written to" if there.is_dir() else "is no folder"
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise InputError(
            f"paths.store_dir={folder} cannot be used: {there} {why}; get leave to write there, or give another folder"
        )


def _tried(settings: SeedSettings) -> nn.Module | None:
    """The network as it is for likely data, its weights neither drawn nor read; `None` where that cannot be told.

    Raises:
        InputError: Whatever the data, the network is refused for the same reason.
    """
    # Weights may have to be downloaded, and none of the checks reads them.
    node = {key: value for key, value in settings.model.node.items() if key != "weights"}
    asked = settings.data.node.get("input_size")
    reasons: list[InputError] = []
    for side in [asked] if isinstance(asked, int) else SIDES:
        shape = (CHANNELS, side, side)
        # A network of one's own may ask for anything; it is built again, for the data as they are.
        with suppress(Exception), torch.random.fork_rng(devices=[]), torch.device("meta"):
            try:
                return build_network(node, settings.model.place, shape, CLASSES, seed=0)
            except InputError as error:
                reasons.append(error)
    if len({str(error) for error in reasons}) == 1 and (asked or len(reasons) == len(SIDES)):
        raise reasons[0]
    return None
