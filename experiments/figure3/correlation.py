"""Figure 3: does an importance depend on the model or on the data? Correlations over the weights of the body.

    python experiments/figure3/correlation.py [--seeds 1 2 3] [--out outputs/figure3] [SETTING...]

Settings are those of the command line, by default `+experiment=catprior data/images=photos model=vgg11_bn`.

For the first two tasks of CatPrior and the first user: MAS of one model on both tasks' data (a, b), against MAS of both
models on one task's data (c, d). The paper finds 0.82 and 0.73 against 0.55 and 0.58, with VGG11 on MIT Indoor Scenes.
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch
from hydra import compose, initialize_config_dir
from rich.console import Console
from torch import Tensor

from dua_lightning import server
from dua_lightning.__main__ import CONF
from dua_lightning.importance import MAS
from dua_lightning.params import Params, pearson
from dua_lightning.run import training
from dua_lightning.run.draws import Draws
from dua_lightning.run.settings import read
from dua_lightning.store.files import replacing, write_text

PANELS = {
    "a: M1, D1 against D2": ((0, 0), (0, 1)),
    "b: M2, D1 against D2": ((1, 0), (1, 1)),
    "c: D1, M1 against M2": ((0, 0), (1, 0)),
    "d: D2, M1 against M2": ((0, 1), (1, 1)),
}
"""Panel -> two importances, each by (model, data), counted from 0."""


PHOTOS = ("+experiment=catprior", "data/images=photos", "model=vgg11_bn")


def importances(overrides: Sequence[str], seed: int, folder: Path) -> dict[tuple[int, int], Params]:
    """MAS of the two first experts on the first user's validation data of the two first tasks."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        (settings,) = read(compose("config", [f"paths.store_dir={folder / 'store'}", *overrides, f"seed={seed}"])).seeds
    draws = Draws(settings)
    (row,) = draws.rows
    tasks, recipes = draws.benchmark.server[:2], draws.recipes.experts(row)[:2]
    asked = training.make(settings.training)
    experts = server.train_experts(draws.net, draws.start, tasks, row.regulariser, asked, draws.store, recipes)
    user = draws.benchmark.users[0]
    seen = [user.of(of_task.task).validation_batches() for of_task in tasks]
    return {(m, d): MAS()(draws.net, experts[m], seen[d]) for m in range(2) for d in range(2)}


def main() -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("overrides", nargs="*", metavar="SETTING", help="a setting of the command line")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--out", type=Path, default=Path("outputs/figure3"))
    given = parser.parse_args()
    lines = []
    for seed in given.seeds:
        found = importances(given.overrides or PHOTOS, seed, given.out)
        for panel, (first, second) in PANELS.items():
            lines.append({"seed": seed, "panel": panel, "pearson": pearson(found[first], found[second])})
        if seed == given.seeds[0]:
            draw(found, given.out / "figure3.png")
    table = pd.DataFrame(lines)
    write_text(given.out / "figure3.csv", table.to_csv(index=False))
    console = Console(soft_wrap=True)
    console.print(table.groupby("panel")["pearson"].agg(["mean", "std"]).round(3).to_string())
    console.print(f"  {given.out / 'figure3.csv'}\n  {given.out / 'figure3.png'}")


def draw(found: dict[tuple[int, int], Params], path: Path) -> None:
    """Scatter plots of 20,000 weights and all biases, on logarithmic axes."""
    figure, grid = plt.subplots(1, 4, figsize=(15, 4), layout="constrained")
    for axes, (panel, (first, second)) in zip(grid, PANELS.items(), strict=True):
        a, b = found[first], found[second]
        for kind, colour in (("weight", "#0072B2"), ("bias", "#E69F00")):
            x, y = (_of_kind(omega, kind) for omega in (a, b))
            chosen = torch.linspace(0, len(x) - 1, min(len(x), 20_000)).long()
            axes.scatter(x[chosen], y[chosen], s=2, color=colour, alpha=0.4, label=kind, rasterized=True)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_title(f"{panel}\ncorrelation {pearson(a, b):.2f}", fontsize=10)
    grid[0].legend(frameon=False, markerscale=4)
    figure.suptitle("Importance of each weight: same model and other data (a, b), same data and other model (c, d)")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)
    plt.close(figure)


def _of_kind(omega: Params, kind: str) -> Tensor:
    return torch.cat([t.flatten() for name, t in omega.items() if name.endswith(kind)])


if __name__ == "__main__":
    main()
