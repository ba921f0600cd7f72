"""Two maps of what adaptations gain: by the number of images, and by the evenness of a user's classes.

    python experiments/open_problem/maps.py OUT RUN...

RUN are folders of runs of `method=how_many` on any benchmark, and of `method=open_problem` with `data=population`.
Gains are over the server's statistics, paired by training, user and draw, with 95 % t intervals over users, of each
user's mean over trainings. `images.csv`, `images.png`, `skew.csv` and `skew.png` go to OUT.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from analyse import COMMON, SERVER, accuracies
from omegaconf import DictConfig, OmegaConf

from dua_lightning.report.statistics import interval
from dua_lightning.store.files import replacing, write_text

FEW = re.compile(r"(?:.* \+ )(?P<row>.*) of (?P<images>\d+) images")
"""The label of a row that adapts on a few images."""
SKEW = {
    "AdaBN": "AdaBN",
    "AdaBN of the first 0.5": "AdaBN of the first half of the layers",
    "BBSE": "BBSE",
    "AdaBN of the first 0.5 then BBSE (0.03)": "AdaBN of the first half, then BBSE",
    "information maximisation": "information maximisation",
    "auto": "auto",
    "AdaBN-S": "AdaBN-S, with labels",
}
"""Rows of the second figure, and their names in it."""


def gains(runs: Sequence[Path]) -> pd.DataFrame:
    """Each row's gain over the server's statistics, its interval, and the share of users who lose a point."""
    wide = accuracies(runs)
    lines = []
    for label in wide:
        apart = (wide[label] - wide[SERVER]).dropna()
        found = interval(apart.groupby(level="user").mean().to_numpy())
        row = label.removeprefix(COMMON).removeprefix("mean-IMM + ")
        lose = 100 * float((apart < -1).mean())
        lines.append({"row": row, "label": label, "gain": found.mean, "CI": found.half, "lose a point": lose})
    return pd.DataFrame(lines)


def of_images(benchmark: str, runs: Sequence[Path]) -> pd.DataFrame:
    """The gains of rows on a few images of each task, in the order of their numbers."""
    found = gains(runs)
    parts = found["label"].str.extract(FEW)
    few = found.assign(benchmark=benchmark, row=parts["row"], images=parts["images"].astype("Int64"))
    few = few[few["images"].notna()].sort_values(["row", "images"])
    return few[["benchmark", "row", "images", "gain", "CI", "lose a point"]]


def of_skew(concentration: float, runs: Sequence[Path]) -> pd.DataFrame:
    """The gains of a population's rows."""
    found = gains(runs)[["row", "gain", "CI", "lose a point"]]
    return found[found["row"] != SERVER].assign(concentration=concentration)


def curve(axis: Any, x: pd.Series, lines: pd.DataFrame, name: str) -> None:
    """A row's gains with their intervals."""
    axis.errorbar(x, lines["gain"], yerr=lines["CI"], marker="o", capsize=3, label=name)


def save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=110)
    plt.close(figure)


def draw_images(found: pd.DataFrame, path: Path) -> None:
    """One panel for each benchmark, a line for each adaptation."""
    benchmarks = list(found.groupby("benchmark", sort=False))
    figure, axes = plt.subplots(1, len(benchmarks), figsize=(5 * len(benchmarks), 4), squeeze=False)
    for axis, (benchmark, lines) in zip(axes[0], benchmarks, strict=True):
        for row, own in lines.groupby("row"):
            curve(axis, own["images"].astype(int), own, row)
        axis.axhline(0, color="0.5")
        axis.set_xscale("log")
        ticks = sorted(set(lines["images"].astype(int)))
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.minorticks_off()
        axis.set(title=benchmark, xlabel="unlabelled images of each task", ylabel="points over the server's statistics")
    axis.legend(loc="center right")
    save(figure, path)


def draw_skew(found: pd.DataFrame, path: Path) -> None:
    """A line for each row, from users of about one class to users of even classes."""
    figure, axis = plt.subplots(figsize=(8, 4.5))
    values = sorted(found["concentration"].unique())
    for place, (row, name) in enumerate(SKEW.items()):
        lines = found[found["row"] == row].sort_values("concentration")
        curve(axis, lines["concentration"].map(values.index) + 0.04 * place, lines, name)
    axis.axhline(0, color="0.5")
    axis.set_xticks(range(len(values)), [f"{value:g}" for value in values])
    axis.set(xlabel="concentration of a user's classes: about one class (left) to even (right)")
    axis.set(ylabel="points over the server's statistics")
    axis.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    given = parser.parse_args()
    images: dict[str, list[Path]] = {}
    skew: dict[float, list[Path]] = {}
    for run in given.runs:
        cfg = OmegaConf.load(run / "config.yaml")
        assert isinstance(cfg, DictConfig)
        if cfg.data.name == "population":
            skew.setdefault(cfg.data.concentration, []).append(run)
        else:
            images.setdefault(cfg.data.name, []).append(run)
    tables = {
        "images": (pd.concat([of_images(*item) for item in images.items()]), draw_images),
        "skew": (pd.concat([of_skew(*item) for item in sorted(skew.items())]), draw_skew),
    }
    for name, (found, draw) in tables.items():
        write_text(given.out / f"{name}.csv", found.round(2).to_csv(index=False))
        draw(found, given.out / f"{name}.png")
        print(found.round(1).to_string(index=False))


if __name__ == "__main__":
    main()
