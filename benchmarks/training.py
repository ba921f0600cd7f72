"""Two tasks in turn on the same images: our regularisers, bare loops, plain Lightning and Avalanche.

    pip install 'dua_lightning[bench]'
    python benchmarks/training.py                    # the digits' MLP, batches of 20; EWC and MAS; 4 minutes
    python benchmarks/training.py --network conv     # VGG11-BN of width 0.25 on 64 pixels, batches of 30

Each trains the second task after the first and closes it, which measures what later tasks shall keep.

- bare: a loop of PyTorch over the same DataLoader, which validates after each epoch, and keeps the best weights in
  memory; a penalty is added to the gradients in closed form
- tensors: the same loop over float32 tensors in memory, without a DataLoader
- lightning: a plain LightningModule without callbacks and checkpoints, which validates after each epoch
- ours: validates after each epoch, and writes the best and the last checkpoint to the disk
- avalanche: over float32 tensors in memory; validates after each epoch

Printed are milliseconds of all this for a step of the second task, medians of pairs that follow each other, and the
speed as a share of the bare loop's.
"""

import argparse
import copy
import json
import logging
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from dua_lightning import regularise
from dua_lightning.data.digits import digits
from dua_lightning.data.images import images
from dua_lightning.data.server import ServerTask
from dua_lightning.nets import mlp, vgg11_bn
from dua_lightning.regularise import EWC, NoRegulariser, QuadraticPenalty, Regulariser
from dua_lightning.tasks import Batch, Task
from dua_lightning.training import Training, fit
from dua_lightning.training.fit import paper_trainer

METHODS: dict[str, Callable[[], Regulariser]] = {"none": NoRegulariser, "EWC": EWC, "MAS": regularise.MAS}


def mlp_on_digits() -> tuple[nn.Module, list[ServerTask]]:
    benchmark = digits(seed=1)
    return mlp(benchmark.shape, benchmark.classes, seed=1), list(benchmark.server[:2])


def conv_on_noise() -> tuple[nn.Module, list[ServerTask]]:
    stream = torch.Generator().manual_seed(0)
    tasks = []
    for name, classes in (("a", slice(0, 2)), ("b", slice(2, 4))):
        pixels = torch.randint(256, (360, 3, 64, 64), generator=stream, dtype=torch.uint8)
        labels = torch.arange(360) % 2 + classes.start
        every = images(pixels, labels, torch.arange(360), 0.5, 0.5)
        tasks.append(ServerTask(Task(name, classes), every[:300], every[300:], 30, seed=0))
    return vgg11_bn((3, 64, 64), 4, seed=0, width=0.25, pooled=1), tasks


def ours(net: nn.Module, tasks: list[ServerTask], method: str, epochs: int) -> float:
    settings = Training(trainer=partial(paper_trainer, max_epochs=epochs), callbacks=list)
    regulariser, seconds = METHODS[method](), 0.0
    for data in tasks:
        began = time.perf_counter()
        fit(net, data, regulariser, settings)
        module = settings.module(net, data)
        regulariser.consolidate(module, data.task, data.predict_dataloader())
        seconds = time.perf_counter() - began
    return seconds


class Tensors:
    """Batches of float32 images in memory, in another order each time."""

    def __init__(self, data: ServerTask) -> None:
        self.x, self.y = data.train.inputs(), data.train.labels
        self.batch_size = data.batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return ((self.x[i], self.y[i]) for i in torch.randperm(len(self.y)).split(self.batch_size))


def bare(net: nn.Module, tasks: list[ServerTask], method: str, epochs: int, memory: bool = False) -> float:
    regulariser, seconds = METHODS[method](), 0.0
    for data in tasks:
        began = time.perf_counter()
        optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)
        batches, classes, best = Tensors(data) if memory else data.train_dataloader(), data.task.classes, -1.0
        for _ in range(epochs):
            net.train()
            for x, y in batches:
                loss = nn.functional.cross_entropy(net(x)[:, classes], y - classes.start)
                optimizer.zero_grad()
                loss.backward()
                if isinstance(regulariser, QuadraticPenalty):
                    for name, p in net.named_parameters():
                        if name in regulariser.omega:
                            away = p.detach() - regulariser.anchor[name]
                            p.grad.addcmul_(away, regulariser.omega[name], value=2 * regulariser.strength)
                optimizer.step()
            net.eval()
            with torch.no_grad():
                right = [net(x)[:, classes].argmax(1) + classes.start == y for x, y in data.val_dataloader()]
            if (accuracy := float(torch.cat(right).float().mean())) > best:
                best, kept = accuracy, copy.deepcopy(net.state_dict())
        net.load_state_dict(kept)
        regulariser.consolidate(net, data.task, data.predict_dataloader())
        seconds = time.perf_counter() - began
    return seconds


class Plain(LightningModule):
    """Lightning as its introduction has it."""

    def __init__(self, net: nn.Module, classes: slice) -> None:
        super().__init__()
        self.net = net
        self.classes = classes

    def training_step(self, batch: Batch, _: int) -> Tensor:
        loss = self._loss(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Batch, _: int) -> None:
        self.log("val_loss", self._loss(batch))

    def _loss(self, batch: Batch) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self.net(x)[:, self.classes], y - self.classes.start)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.net.parameters(), lr=1e-3, momentum=0.9)


def lightning(net: nn.Module, tasks: list[ServerTask], method: str, epochs: int) -> float:
    seconds = 0.0
    for data in tasks:
        began = time.perf_counter()
        trainer = paper_trainer(max_epochs=epochs, logger=False, enable_checkpointing=False)
        trainer.fit(Plain(net, data.task.classes), datamodule=data)
        seconds = time.perf_counter() - began
    return seconds


def avalanche(net: nn.Module, tasks: list[ServerTask], method: str, epochs: int) -> float:
    from avalanche.benchmarks import benchmark_from_datasets
    from avalanche.benchmarks.utils import as_classification_dataset
    from avalanche.training.plugins import EvaluationPlugin
    from avalanche.training.supervised import EWC, MAS, Naive

    sets: dict[str, list[Any]] = {"train": [], "test": []}
    for data in tasks:
        for stream, split in (("train", data.train), ("test", data.validation)):
            tensors = TensorDataset(split.inputs(), split.labels)
            tensors.targets = split.labels.tolist()
            sets[stream].append(as_classification_dataset(tensors))
    kind = {"none": Naive, "EWC": partial(EWC, ewc_lambda=400.0), "MAS": partial(MAS, lambda_reg=1.0)}[method]
    strategy = kind(
        model=net,
        optimizer=torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=tasks[0].batch_size,
        train_epochs=epochs,
        eval_every=1,
        evaluator=EvaluationPlugin(),
    )
    seconds = 0.0
    streams = benchmark_from_datasets(**sets)
    for experience, validation in zip(streams.train_stream, streams.test_stream, strict=True):
        began = time.perf_counter()
        strategy.train(experience, eval_streams=[validation])
        seconds = time.perf_counter() - began
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=["mlp", "conv"], default="mlp")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("outputs/bench"))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    net, tasks = {"mlp": mlp_on_digits, "conv": conv_on_noise}[given.network]()
    steps = given.epochs * len(tasks[1].train_dataloader())
    every = {"bare": bare, "tensors": partial(bare, memory=True), "lightning": lightning, "ours": ours}
    every["avalanche"] = avalanche
    try:
        import avalanche as _  # noqa: F401
    except ImportError as error:
        del every["avalanche"]
        print(f"Avalanche is left out ({error}); pip install 'dua_lightning[bench]'", file=sys.stderr)
    found = {}
    for method in METHODS:
        programs = {name: program for name, program in every.items() if method == "none" or name != "lightning"}
        times: dict[str, list[float]] = {name: [] for name in programs}
        for _pair in range(given.pairs + 1):
            for name, program in programs.items():
                times[name].append(program(copy.deepcopy(net), tasks, method, given.epochs))
        # The first pair warms up.
        kept = {name: seconds[1:] for name, seconds in times.items()}
        ratios = {
            name: [bare / other for bare, other in zip(kept["bare"], seconds, strict=True)]
            for name, seconds in kept.items()
        }
        found[method] = {
            name: {
                "ms_per_step": 1000 * statistics.median(seconds) / steps,
                "speed_of_the_bare_loop": statistics.median(ratios[name]),
                "span": [min(ratios[name]), max(ratios[name])],
            }
            for name, seconds in kept.items()
        }
        for name, one in found[method].items():
            low, high = one["span"]
            ratio = f"{one['speed_of_the_bare_loop']:.2f} ({low:.2f} - {high:.2f})"
            print(f"| {given.network} | {method} | {name} | {one['ms_per_step']:.2f} | {ratio} |", flush=True)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / f"training_{given.network}.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
