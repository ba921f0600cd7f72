"""The distance of the release's estimator of an importance from the exact one, and the images that one needs.

    python experiments/estimator_bias/estimators.py [--images digits photos] [--seeds 1 2 3] [--out DIR]

Exact is the mean over images of each image's own |gradient| (MAS) or squared gradient (FIM). The authors' release takes
the mean over batches of 20, drawn at random, of the same of the batch's mean gradient. Both are measured on each user's
data, compared layer by layer, and used to merge the same experts; so is the exact importance of the first 5, 10, ..
images. `layers.csv` and `.png` have the comparison by layer, `merged.csv` and `.png` what becomes of the merged model,
`users.csv` the same of every seed and user. Experts are kept in DIR, and a later run takes them from there.
"""

import argparse
import logging
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, Literal

# Waiting threads must not spin where other programs want the cores; read when torch is loaded.
os.environ["GOMP_SPINCOUNT"] = "10000"

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from hydra import compose, initialize_config_dir
from matplotlib.figure import Figure
from rich.console import Console
from scipy import stats
from torch import Tensor, nn

from dua_lightning import server, user
from dua_lightning.__main__ import CONF
from dua_lightning.data.benchmark import Benchmark
from dua_lightning.data.images import EVALUATION_BATCH, BatchOrder, Images, loader
from dua_lightning.data.user import UserData
from dua_lightning.importance import FIM, MAS, Importance, Uniform
from dua_lightning.importance.batchmean import BATCH
from dua_lightning.metrics import average_accuracy
from dua_lightning.params import Params, State
from dua_lightning.report.display import Display
from dua_lightning.report.progress import TrainingProgress
from dua_lightning.run import training
from dua_lightning.run.draws import Draws
from dua_lightning.run.rows import Row
from dua_lightning.run.settings import read
from dua_lightning.store.files import replacing, write_text
from dua_lightning.streams import generator
from dua_lightning.tasks import Expert, UserModel

STUDIES = {
    "digits": ["+experiment=digits", "method=racl"],
    # AdaBN takes the statistics anew through each merged model, so that two of them differ by their weights alone.
    # All of the users' pictures would take half as long again.
    "photos": [
        *("+experiment=transprior", "data/images=photos", "data.extra_per_task=120"),
        *("method=racl", "adapt=adabn"),
    ],
}
IMPORTANCES = ("MAS", "FIM", "FIM sampled")
EXACT, BATCHES, BY_CLASS, UNIFORM = "exact", "batches", "by class", "uniform"
"""Exact, on all images; the release's, its batches drawn at random or of one class each; every weight the same."""
SIZES = (5, 10, 20, 50, 100)
"""Images of each task that an exact importance is measured on, besides all of them."""
WEIGHTS = 5_000
"""Weights of a layer, drawn at random, that are compared; all of a smaller one."""

Line = dict[str, Any]
"""One of a table, by column."""


@dataclass(frozen=True)
class Study:
    """The experts of one seed, and what merges, adapts and evaluates them."""

    images: str
    seed: int
    benchmark: Benchmark
    net: nn.Module
    experts: tuple[Expert, ...]
    start: State
    row: Row

    def lines(self, name: str, data: UserData) -> tuple[list[Line], list[Line]]:
        """The figures of an importance and user for each way of measuring: by layer and task, and merged."""
        layers: list[Line] = []
        models: list[Line] = []
        for measured, priors in self.priors(name, data):
            model = self.merged(priors)
            if measured == EXACT:
                exact, reference = thinned(self.net, priors), model
            where = {"images": self.images, "seed": self.seed, "user": data.user}
            where |= {"importance": name, "measured": measured}
            new = [] if measured == UNIFORM else compared(exact, thinned(self.net, priors))
            layers += [where | line for line in new]
            models.append(
                where
                | {
                    "spearman": pd.Series([line["spearman"] for line in new], dtype=float).mean(),
                    "moved": moved(self.experts, model, reference, list(priors[0])),
                    "average_accuracy": self.accuracy(model, data),
                }
            )
        return layers, models

    def priors(self, name: str, data: UserData) -> Iterator[tuple[str, list[Params]]]:
        """The way of measuring, and a prior for each expert; the exact ones first."""
        exact, batches = importance(name, self.seed, "per_sample"), importance(name, self.seed, "batch_mean")
        mixed = [
            images[torch.randperm(len(images), generator=generator(self.seed, "mixed", data.user, task.name))]
            for task, images in zip(data.tasks, data.validation, strict=True)
        ]
        yield EXACT, self.measure(exact, mixed)
        yield BATCHES, self.measure(batches, mixed)
        if name == "FIM sampled":
            # In another order the images would draw other labels.
            return
        yield BY_CLASS, self.measure(batches, [images[images.labels.argsort(stable=True)] for images in mixed])
        for size in SIZES:
            yield str(size), self.measure(exact, [images[:size] for images in mixed])
        yield UNIFORM, self.measure(Uniform(), mixed)

    def measure(self, psi: Importance, images: Sequence[Images]) -> list[Params]:
        return [
            psi(self.net, expert, loader(of_task, BatchOrder(len(of_task), EVALUATION_BATCH)))
            for expert, of_task in zip(self.experts, images, strict=True)
        ]

    def merged(self, priors: list[Params]) -> UserModel:
        """The personal model of all tasks, with the statistics that the row gives it."""
        model = self.row.chi(self.experts, priors, self.start)
        if self.row.statistics is None:
            return model
        return self.row.statistics(self.net, self.experts, model, self.benchmark.server)

    def accuracy(self, model: UserModel, data: UserData) -> float:
        """Average accuracy of the model of all tasks, adapted to the user."""
        R, _ = user.evaluate(self.net, self.experts, [(len(self.experts), model)], self.row.phi, data)
        return float(average_accuracy(R))


def importance(name: str, seed: int, estimator: Literal["per_sample", "batch_mean"]) -> Importance:
    if name == "MAS":
        return MAS(estimator)
    return FIM("true" if name == "FIM" else "sampled", seed, estimator)


def prepare(images: str, seed: int, folder: Path, display: Display) -> Study:
    """Build the data and the network; train the experts, or take them from an earlier run in `folder`."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", [*STUDIES[images], f"seed={seed}", f"paths.store_dir={folder / 'store'}"])
    settings = read(cfg)
    (of_seed,) = settings.seeds
    torch.set_num_threads(settings.threads or 1)
    draws = Draws(of_seed, display.say)
    (row,) = draws.rows
    plain, progress = training.make(of_seed.training), TrainingProgress(display, f"{images}, seed {seed}: experts")
    experts = server.train_experts(
        draws.net,
        draws.start,
        draws.benchmark.server,
        row.regulariser,
        replace(plain, callbacks=lambda: [*plain.callbacks(), progress]),
        draws.store,
        draws.recipes.experts(row),
    )
    return Study(images, seed, draws.benchmark, draws.net, experts, draws.start, row)


def moved(experts: Sequence[Expert], model: UserModel, reference: UserModel, names: Sequence[str]) -> float:
    """Mean |difference| of two merged models' weights, in percent of the experts' mean range.

    A merged weight lies within the experts' range: 100 would be every weight going from one end to the other.
    """
    task = experts[0].task.name
    distance = reach = 0.0
    for name in names:
        of_experts = torch.stack([expert.state[name] for expert in experts])
        reach += float((of_experts.amax(0) - of_experts.amin(0)).sum())
        distance += float((model[task][name] - reference[task][name]).abs().sum())
    return 100 * distance / reach


def thinned(net: nn.Module, priors: list[Params]) -> list[dict[str, np.ndarray]]:
    """For each task and layer, the importances of some of its weights."""
    found = []
    for prior in priors:
        omegas = {
            layer: torch.cat([prior[n].flatten() for n in names]) for layer, names in layers_of(net, prior).items()
        }
        found.append({layer: omega[places(len(omega))].double().numpy() for layer, omega in omegas.items()})
    return found


@cache
def places(count: int) -> Tensor:
    return torch.randperm(count, generator=generator(0, "weights"))[:WEIGHTS]


def compared(exact: list[dict[str, np.ndarray]], other: list[dict[str, np.ndarray]]) -> list[Line]:
    """Correlations over the weights of each layer, and the ratio of the means, for each task.

    Weights without any importance are left out: they are so under every estimator, and their agreement says nothing.
    """
    lines = []
    for task, (of_task, others) in enumerate(zip(exact, other, strict=True), start=1):
        for layer, a in of_task.items():
            alive = a > 0
            a, b = a[alive], others[layer][alive]
            pearson, spearman = (float(np.corrcoef(*pair)[0, 1]) for pair in ((a, b), map(stats.rankdata, (a, b))))
            lines.append(
                {"task": task, "layer": layer, "pearson": pearson, "spearman": spearman, "scale": b.mean() / a.mean()}
            )
    return lines


def layers_of(net: nn.Module, prior: Params) -> dict[str, list[str]]:
    """Layers in their order, such as `conv 2`, and the names of their weights."""
    kinds = {nn.Conv2d: "conv", nn.BatchNorm2d: "norm", nn.Linear: "linear"}
    found: dict[str, list[str]] = {}
    counts = dict.fromkeys(kinds.values(), 0)
    for prefix, module in net.named_modules():
        names = [f"{prefix}.{name}" for name, _ in module.named_parameters(recurse=False)]
        if names and names[0] in prior:
            kind = kinds[type(module)]
            counts[kind] += 1
            found[f"{kind} {counts[kind]}"] = names
    return found


def by_layer(lines: pd.DataFrame) -> pd.DataFrame:
    """The figures of each layer: mean over seeds, users and tasks, with the spread over seeds and over users.

    `scale_ratio` is the largest over the smallest scale among a user's tasks: 1 cancels in a merge.
    """
    keys = ["images", "importance", "measured", "layer"]
    of_user = lines.groupby([*keys, "seed", "user"], sort=False).agg(
        pearson=("pearson", "mean"),
        spearman=("spearman", "mean"),
        scale=("scale", "mean"),
        scale_ratio=("scale", lambda scale: scale.max() / scale.min()),
    )
    return spread(of_user, keys)


def by_measure(models: pd.DataFrame) -> pd.DataFrame:
    """The figures of each way to measure an importance, as `by_layer`, with the accuracy gained over the exact one.

    `gain_low` to `gain_high` is the 95 % t interval of that gain over users (each user's mean over seeds), `gain_std`
    its standard deviation from one merge, of a seed and user, to another.
    """
    keys = ["images", "importance", "measured"]
    frame = models.set_index([*keys, "seed", "user"])
    exact = frame["average_accuracy"].xs(EXACT, level="measured")
    frame["gain"] = frame["average_accuracy"] - exact.reindex(frame.index.droplevel("measured")).to_numpy()
    found = spread(frame, keys)
    users = frame["gain"].groupby([*keys, "user"], sort=False).mean().groupby(keys, sort=False)
    half = stats.t.ppf(0.975, users.size() - 1) * users.sem()
    single = frame["gain"].groupby(keys, sort=False).std()
    return found.assign(gain_low=found["gain"] - half, gain_high=found["gain"] + half, gain_std=single)


def spread(frame: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Mean of each column, its standard deviation over seeds (of means over users) and over users (over seeds)."""
    found = frame.groupby(keys, sort=False).mean()
    for over in ("seed", "user"):
        means = frame.groupby([*keys, over], sort=False).mean()
        found = found.join(means.groupby(keys, sort=False).std().add_suffix(f"_std_{over}s"))
    return found


LOOKS = {
    "MAS": {"marker": "o", "linestyle": "-", "color": "#0072B2"},
    "FIM": {"marker": "s", "linestyle": "--", "color": "#D55E00"},
    "FIM sampled": {"marker": "^", "linestyle": ":", "color": "#009E73"},
}
SCALES = {1: "1", 1 / 2: "1/2", 1 / 5: "1/5", 1 / 10: "1/10", 1 / BATCH: f"1/{BATCH}"}
"""Marked on the axis of scales; the last is what batches make of a sum of squares whose mean is 0."""


def draw_layers(found: pd.DataFrame, path: Path) -> None:
    """The release's estimator against the exact one, layer by layer."""
    studies = list(found.index.unique("images"))
    counts = [found.loc[images].index.unique("layer").size for images in studies]
    figure, grid = panels(3, len(studies), sharex="col", width_ratios=[count + 2 for count in counts])
    texts = {"pearson": "Pearson correlation", "spearman": "Spearman correlation", "scale": "mean, of the exact mean"}
    for (row, value), (column, images) in product(enumerate(texts), enumerate(studies)):
        axes = grid[row, column]
        for name, look in LOOKS.items():
            of = found.query("images == @images and importance == @name and measured == @BATCHES").droplevel([0, 1, 2])
            axes.errorbar(of.index, of[value], of[f"{value}_std_seeds"], label=name, capsize=2, **look)
        axes.margins(x=0.6 / counts[column])
        axes.tick_params(axis="x", rotation=90)
        axes.set_title(images if row == 0 else "", fontsize=10)
        axes.set_ylabel(texts[value] if column == 0 else "")
    for axes in grid[:2].flat:
        axes.set_ylim(top=1.01)
    for axes in grid[2]:
        axes.set_yscale("log")
        axes.set_yticks(list(SCALES), SCALES.values())
        axes.minorticks_off()
    title = (
        "Within each layer the release's importance orders the weights much as the exact one does; its size is another"
    )
    finish(figure, grid, title, path)


def draw_merged(found: pd.DataFrame, path: Path) -> None:
    """Draw the effect of images and estimator on the merged model, beside the exact importance of all."""
    studies = list(found.index.unique("images"))
    figure, grid = panels(3, len(studies), sharex=True)
    texts = {
        "spearman": "Spearman correlation",
        "moved": "weights moved (% of range)",
        "gain": "accuracy gained (points)",
    }
    bars = {"spearman": "spearman_std_users", "moved": "moved_std_users", "gain": "gain_std"}
    columns = [*map(str, SIZES), EXACT, BATCHES, BY_CLASS, UNIFORM]
    ticks = [*map(str, SIZES), "all", "release's", "release's, by class", "no importance"]
    curve = slice(len(SIZES) + 1)
    for (row, value), (column, images) in product(enumerate(texts), enumerate(studies)):
        axes = grid[row, column]
        for shift, (name, look) in zip((-0.15, 0, 0.15), LOOKS.items(), strict=True):
            of = found.query("images == @images and importance == @name").droplevel([0, 1]).reindex(columns)
            at = np.arange(len(columns)) + shift
            axes.errorbar(at, of[value], of[bars[value]], label=name, capsize=2, **look | {"linestyle": ""})
            axes.plot(at[curve], of[value].iloc[curve], **look | {"marker": ""})
        axes.axvline(len(SIZES) + 0.5, color="0.5", linewidth=0.8)
        axes.set_xticks(range(len(columns)), ticks, rotation=35, ha="right")
        axes.set_title(images if row == 0 else "", fontsize=10)
        axes.set_ylabel(texts[value] if column == 0 else "")
    for axes in grid[-1]:
        axes.set_xlabel("exact, of so many images of each task", loc="left", fontsize=9)
    title = "In place of the exact importance, the release's moves merged weights a few percent, mean accuracy hardly"
    finish(figure, grid, title, path)


def panels(lines: int, columns: int, **shared: Any) -> tuple[Figure, Any]:
    """A grid of axes; those of one line share their scale."""
    figure, grid = plt.subplots(
        lines, columns, figsize=(11, 8.5), layout="constrained", squeeze=False, sharey="row", **shared
    )
    for axes in grid.flat:
        axes.grid(axis="y", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, grid


def finish(figure: Figure, grid: Any, title: str, path: Path) -> None:
    """Title and legend, and the file."""
    figure.suptitle(title, x=0.02, ha="left", fontsize=11)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)
    plt.close(figure)


def main() -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", nargs="+", default=list(STUDIES), choices=list(STUDIES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--out", type=Path, default=Path("outputs/estimator_bias"))
    given = parser.parse_args()
    console = Console(soft_wrap=True)
    layers, models = (pd.DataFrame(lines) for lines in measured(given.images, given.seeds, given.out, Display(console)))
    of_layers, of_models = by_layer(layers[layers["measured"] != EXACT]), by_measure(models)
    texts = {"layers": of_layers, "merged": of_models, "users": models.set_index("images")}
    for name, table in texts.items():
        write_text(given.out / f"{name}.csv", table.round(4).to_csv())
    draw_layers(of_layers, given.out / "layers.png")
    draw_merged(of_models, given.out / "merged.png")
    shown = ["pearson", "spearman", "scale", "scale_ratio"]
    console.print(of_layers.query("measured in [@BATCHES, @BY_CLASS]")[shown].round(3).to_string())
    gains = [f"gain{end}" for end in ("", "_low", "_high", "_std", "_std_seeds", "_std_users")]
    console.print(of_models[["spearman", "moved", "average_accuracy", *gains]].round(2).to_string())
    for name in (*(f"{name}.csv" for name in texts), "layers.png", "merged.png"):
        console.print(f"  {given.out / name}")


def measured(
    studies: Sequence[str], seeds: Sequence[int], folder: Path, display: Display
) -> tuple[list[Line], list[Line]]:
    """All lines, by layer and of merged models."""
    layers: list[Line] = []
    models: list[Line] = []
    with display.progress:
        for images, seed in product(studies, seeds):
            began = time.monotonic()
            study = prepare(images, seed, folder, display)
            users = study.benchmark.users
            with display.bar(f"{images}, seed {seed}: users", len(users) * len(IMPORTANCES)) as advance:
                for data, name in product(users, IMPORTANCES):
                    for found, new in zip((layers, models), study.lines(name, data), strict=True):
                        found += new
                    advance(f"user {data.user}, {name}")
            display.say(f"{images}, seed {seed}: {time.monotonic() - began:.0f} s")
    return layers, models


if __name__ == "__main__":
    main()
