"""Training samples per second of one process and of several that share every batch, on processors.

    python benchmarks/ddp.py [--rounds 3]

The digits' first task and MLP, an epoch's batches at a time, without validation and starts; medians over the epochs of
all rounds, in which the cases are run in turn.
"""

import argparse
import logging
import statistics
import time

import torch
from hydra import compose, initialize_config_dir
from lightning import Callback, LightningModule, Trainer
from rich.progress import track

from dua_lightning.__main__ import CONF
from dua_lightning.nets import mlp
from dua_lightning.regularise import Free
from dua_lightning.run.build import build
from dua_lightning.training.training import Training, fit

CASES = ((1, 1), (1, 2), (2, 1))
"""Processes, and threads of each."""
EPOCHS = 30
WARM = 2
"""Epochs of a fit that do not count."""


class Clock(Callback):
    """Seconds of each epoch's steps."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.started = time.perf_counter()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds.append(time.perf_counter() - self.started)


def main() -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", ["data=digits"])
    benchmark = build(cfg.data, "data", seed=1)
    data = benchmark.server[0]
    found: dict[tuple[int, int], list[float]] = {case: [] for case in CASES}
    for processes, threads in track(CASES * rounds, "training"):
        torch.set_num_threads(threads)
        clock = Clock()
        training = Training(max_epochs=EPOCHS, patience=EPOCHS, devices=processes)
        fit(mlp(benchmark.shape, benchmark.classes, 1), data, Free(), training, [clock])
        found[processes, threads] += [len(data.train) / seconds for seconds in clock.seconds[WARM:]]
    print("| processes | threads of each | images per second |\n|---|---|---|")
    for (processes, threads), speeds in found.items():
        print(f"| {processes} | {threads} | {statistics.median(speeds):,.0f} |")


if __name__ == "__main__":
    main()
