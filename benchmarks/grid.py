"""The passes that the paper's scene benchmarks take, to be multiplied by the seconds of a pass on your device.

    python benchmarks/grid.py [SETTING ...]     # settings as on the command line, such as trainer.max_epochs=10

VGG11-BN at 224 pixels on MIT Indoor Scenes, by the configuration's own numbers and the sizes of the official lists; no
picture is read. Training is counted without the plateau rule, which ends it earlier.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from io import StringIO
from typing import Any

import pandas as pd
from hydra import compose, initialize_config_dir

from dua_lightning.__main__ import CONF
from dua_lightning.data.corruptions import NAMES
from dua_lightning.data.images import EVALUATION_BATCH
from dua_lightning.data.mit_indoor import TASKS

SERVER, SCORED = 80, 20
"""Pictures of each category on the official lists for training and for testing (a few categories have one to four more
or fewer)."""
VALIDATION = 0.2
"""Share of the server's pictures that it validates on."""


@dataclass(frozen=True)
class Work:
    """Passes of batches, and of how many images they are, forward alone or forward and backward."""

    what: str
    batches: int
    forward: int
    backward: int


def batches(images: Sequence[int], size: int) -> int:
    return sum(-(-count // size) for count in images)


def prefixes(images: Sequence[int]) -> list[int]:
    """The images of task j <= t for each t: a merged model of every prefix meets every task that it knows."""
    return [count for t in range(1, len(images) + 1) for count in images[:t]]


def works(cfg: Any, adabn_s: Any, finetune: Any) -> list[Work]:
    table = pd.read_csv(
        StringIO(files("dua_lightning.data").joinpath("tables/mit_indoor_supercategories.csv").read_text())
    )
    categories = [int((table["supercategory"] == task).sum()) for task in TASKS]
    validated = [round(VALIDATION * SERVER * count) for count in categories]
    trained = [SERVER * count - held for count, held in zip(categories, validated, strict=True)]
    users = len(NAMES) if cfg.data.name == "transprior" else cfg.data.users
    if cfg.data.name == "transprior":
        own = [cfg.data.extra_per_task + SCORED * count for count in categories]
    else:
        extra = cfg.data.preferred_categories * cfg.data.images_per_preference
        own = [extra + SCORED * count // users for count in categories]
    half = [count // 2 for count in own]
    draws = users * cfg.data.iterations
    epochs, size, step = cfg.trainer.max_epochs, cfg.data.batch_size, cfg.data.user_batch_size

    def by_users(what: str, images: Sequence[int], passes: int, size: int, backward: bool) -> Work:
        count = passes * sum(images)
        batch = passes * batches(images, size)
        return Work(what, draws * batch, 0 if backward else draws * count, draws * count if backward else 0)

    return [
        Work(f"server, {epochs} epochs", epochs * batches(trained, size), 0, epochs * sum(trained)),
        Work(
            "server, validation of each epoch",
            epochs * batches(validated, EVALUATION_BATCH),
            epochs * sum(validated),
            0,
        ),
        Work("server, psi (IMM)", batches(validated, EVALUATION_BATCH), 0, sum(validated)),
        by_users("users, psi (RACL)", half, 1, EVALUATION_BATCH, True),
        by_users("users, evaluation of R, merged", prefixes(half), 1, EVALUATION_BATCH, False),
        by_users("users, evaluation of R, Task Experts", half, 1, EVALUATION_BATCH, False),
        by_users("users, AdaBN", prefixes(half), 1, max(half), False),
        by_users(f"users, AdaBN-S, {adabn_s.epochs} epochs", prefixes(half), adabn_s.epochs, step, True),
        by_users(f"users, Task Experts, {finetune.epochs} epochs", half, finetune.epochs, step, True),
    ]


def _count(images: int) -> str:
    return f"{images:,}" if images else "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("settings", nargs="*")
    settings = parser.parse_args().settings
    for benchmark in ("transprior", "catprior"):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            chosen = [
                compose("config", [f"+experiment={benchmark}", f"adapt={adapt}", *settings])
                for adapt in ("none", "adabn_s", "finetune")
            ]
        print(f"\n| {benchmark} | batches | images forward | images forward and backward |\n|---|---|---|---|")
        for work in works(chosen[0], chosen[1].adapt, chosen[2].adapt):
            print(f"| {work.what} | {work.batches:,} | {_count(work.forward)} | {_count(work.backward)} |")


if __name__ == "__main__":
    main()
