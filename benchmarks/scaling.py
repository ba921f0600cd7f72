"""The growth of the hot paths: with images, weights and tasks, beside their lower bounds. Part of `make bench`.

    python benchmarks/scaling.py [--runs 5] [--out outputs/bench]

Draws `scaling.png` and writes `scaling.csv`: seconds of the path and of its floor, medians of pairs run in turn.
"""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import paths
from hot_paths import ratios
from rich.progress import track

from dua_lightning.nets import mlp
from dua_lightning.store.files import replacing

AXES: dict[str, tuple[str, list[int], Callable[[int], paths.Sides]]] = {
    "MAS of an MLP": (
        "images",
        [50, 200, 1000, 4000],
        lambda n: paths.psi(mlp((3, 28, 28), 2, 0), (3, 28, 28), n, "MAS"),
    ),
    "MAS of 1,000 images": (
        "hidden units of the MLP",
        [50, 100, 400, 1600],
        lambda width: paths.psi(mlp((3, 28, 28), 2, 0, width), (3, 28, 28), 1000, "MAS"),
    ),
    "merge of 10M weights": ("tasks", [2, 4, 8, 16], lambda count: paths.merge(10_000_000, count)),
    "merge of 4 experts": ("weights", [10**5, 10**6, 10**7, 4 * 10**7], lambda size: paths.merge(size, 4)),
}
"""Title -> what grows, its values, and the path at each."""


def measure(runs: int) -> pd.DataFrame:
    rows = []
    points = [(title, value) for title, (_, values, _) in AXES.items() for value in values]
    for title, value in track(points, "scaling"):
        grows, _, make = AXES[title]
        sides = make(value)
        found, own, floor = ratios(sides.path, sides.floor, runs)
        rows.append((title, grows, value, own, floor, statistics.median(found)))
    return pd.DataFrame(rows, columns=["path", "grows", "value", "seconds", "floor_seconds", "ratio"])


def draw(frame: pd.DataFrame, path: Path) -> None:
    figure, panels = plt.subplots(1, len(AXES), figsize=(4 * len(AXES), 3.6), layout="constrained")
    for panel, title in zip(panels, AXES, strict=True):
        rows = frame[frame.path == title]
        panel.loglog(rows.value, rows.seconds, "o-", color="black", label="measured")
        panel.loglog(rows.value, rows.floor_seconds, "s--", color="tab:orange", label="lower bound")
        panel.set(title=title, xlabel=rows.grows.iloc[0], ylabel="seconds")
    panels[0].legend()
    figure.suptitle("Beyond its fixed costs, every path grows as its lower bound does")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("outputs/bench"))
    arguments = parser.parse_args()
    frame = measure(arguments.runs)
    with replacing(arguments.out / "scaling.csv") as temporary:
        frame.to_csv(temporary, index=False)
    draw(frame, arguments.out / "scaling.png")
    print(f"  {arguments.out / 'scaling.csv'}\n  {arguments.out / 'scaling.png'}")


if __name__ == "__main__":
    main()
