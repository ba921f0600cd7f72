"""A tiny run on picture files, two users with two tasks each, as the command line makes it."""

import signal
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dua_lightning.__main__ import main
from tests.data.scenes import jpeg, picture
from tests.helpers.figures import unpainted

TASKS = {"kitchen": ("pots", "stove"), "garden": ("grass", "tulip")}
"""Their categories; the tasks are sorted by name."""


class Own(nn.Module):
    """A network of one's own, whose last layer has another name."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(channels, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.fc = nn.Linear(4, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).mean((2, 3)))


def own(shape: tuple, classes: int, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Own(shape[0], classes)


OWN = ("model=own", "model.name=own", "model._target_=tests.personal.runs.own", "model.head=fc")
"""The settings that choose it."""


def pictures(root: Path, server: int = 5) -> list[Path]:
    """Make the folders of a server and of the users ann and bob; the files in the order of the pool."""
    number = 0
    for side, count in (("server", server), ("users/ann", 3), ("users/bob", 2)):
        for task, categories in TASKS.items():
            for category in categories:
                folder = root / side / task / category
                folder.mkdir(parents=True)
                for i in range(count):
                    number += 1
                    (folder / f"{i}.jpg").write_bytes(jpeg(picture(number, 40, 36)))
    return sorted(root.rglob("*.jpg"))


def run(folder: Path, *arguments: str) -> Path:
    """Run the program on the pictures of `folder / "pictures"`, which are made if they are not there."""
    if not (folder / "pictures").exists():
        pictures(folder / "pictures")
    words = [
        *("data=own_users", f"data.images.root={folder / 'pictures'}", "data.images.size=36", "data.input_size=32"),
        *("data.iterations=2", "model=mlp", "model.width=8", "trainer.max_epochs=1", "engine=serial", "threads=1"),
        *("logger=none", f"paths.data_dir={folder / 'data'}", f"paths.store_dir={folder / 'store'}"),
        f"paths.output_dir={folder / 'run'}",
    ]
    handlers = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    if any(one.startswith("model=") for one in arguments):
        words = [one for one in words if one not in ("model=mlp", "model.width=8")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["dua_lightning", *words, *arguments])
        try:
            with unpainted():
                main()
        finally:
            for number, handler in handlers:
                signal.signal(number, handler)
    return folder / "run"
