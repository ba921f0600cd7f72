"""The pictures of a run. Readable in black and white: users differ by marker as well as by colour."""

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from dua_lightning.data.benchmark import Benchmark
from dua_lightning.data.images import Images
from dua_lightning.files import replacing
from dua_lightning.report.records import matrices
from dua_lightning.report.tables import merits, rows

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9")
"""Of Okabe and Ito's palette, told apart by colour-blind readers."""
MARKERS = ("o", "s", "^", "D", "v")
MATRICES_PER_LINE = 5


def draw_all(records: pd.DataFrame, folder: Path) -> list[Path]:
    """Save every figure that the records alone can make; returns the files."""
    return [accuracies(records, folder / "accuracy.png"), accuracy_matrices(records, folder / "matrices.png")]


def accuracies(records: pd.DataFrame, path: Path) -> Path:
    """Average accuracy of each row: the mean with its spread over seeds, and each user's mean.

    Up to five users have a marker each; more are grey dots.
    """
    found = rows(records)
    users = list(dict.fromkeys(user for row in found.values() for user in row.users))
    few = len(users) <= len(COLOURS)
    looks = (
        {user: (f"user {user}", colour, marker) for user, colour, marker in zip(users, COLOURS, MARKERS, strict=False)}
        if few
        else dict.fromkeys(users, ("a user", "0.65", "o"))
    )
    figure, axes = plt.subplots(figsize=(8, 1.4 + 0.38 * len(found)), layout="constrained")
    for y, row in enumerate(found.values()):
        axes.errorbar(
            row.accuracy.mean, y, xerr=np.nan_to_num(row.accuracy.std), fmt="|", color="black", capsize=4, markersize=14
        )
        for user, accuracy in row.users.items():
            axes.scatter(accuracy.mean, y, s=28 if few else 12, color=looks[user][1], marker=looks[user][2], zorder=3)
    for text, colour, marker in dict.fromkeys(looks.values()):
        axes.scatter([], [], color=colour, marker=marker, label=text)
    axes.errorbar([], [], xerr=[], fmt="|", color="black", label="all users, ± std over seeds")
    axes.set_yticks(range(len(found)), list(found))
    axes.invert_yaxis()
    axes.set_xlabel("average accuracy after the last task (%)")
    axes.set_title("How well each method serves each user", loc="left")
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    return _save(figure, path)


def accuracy_matrices(records: pd.DataFrame, path: Path) -> Path:
    """The accuracy matrix R of each row, averaged over users, iterations and seeds."""
    frame = merits(records)
    stacks: dict[str, list[np.ndarray]] = {}
    for name, (_, R) in zip(frame["row"], matrices(records), strict=True):
        stacks.setdefault(name, []).append(R)
    columns = min(MATRICES_PER_LINE, len(stacks))
    lines = -(-len(stacks) // columns)
    figure, grid = plt.subplots(
        lines, columns, figsize=(2.3 * columns + 0.8, 2.4 * lines + 0.7), layout="constrained", squeeze=False
    )
    for axes in grid.flat[len(stacks) :]:
        axes.set_axis_off()
    low = float(min(np.nanmin(np.mean(stack, axis=0)) for stack in stacks.values()))
    for axes, (name, stack) in zip(grid.flat, stacks.items(), strict=False):
        R = np.mean(stack, axis=0)
        image = axes.imshow(R, vmin=low, vmax=100, cmap="viridis")
        for t, j in np.argwhere(~np.isnan(R)):
            shade = "black" if R[t, j] > (low + 100) / 2 else "white"
            axes.text(j, t, f"{R[t, j]:.0f}", ha="center", va="center", color=shade, fontsize=8)
        ticks = range(len(R))
        axes.set_xticks(ticks, [str(n + 1) for n in ticks])
        axes.set_yticks(ticks, [str(n + 1) for n in ticks])
        axes.set_title(name, fontsize=9)
    figure.supxlabel("accuracy (%) on task", fontsize=9)
    figure.supylabel("after learning task", fontsize=9)
    figure.colorbar(image, ax=grid, shrink=0.6)
    figure.suptitle("What is kept while tasks are learnt: read each column downwards", x=0.02, ha="left", fontsize=11)
    return _save(figure, path)


def gallery(benchmark: Benchmark, path: Path, shown: int = 12) -> Path:
    """What the server trains on and what each user's device sees: some images of every task, spread evenly."""
    sides = {"server": Images.cat([data.train for data in benchmark.server])}
    sides |= {f"user {user.user}": Images.cat(user.validation) for user in benchmark.users}
    figure, lines = plt.subplots(
        len(sides), 1, figsize=(9, 0.95 * len(sides) + 0.4), layout="constrained", squeeze=False
    )
    for axes, (name, images) in zip(lines.flat, sides.items(), strict=True):
        chosen = images.pixels[np.linspace(0, len(images) - 1, shown).astype(int)]
        axes.imshow(np.concatenate(chosen.permute(0, 2, 3, 1).numpy(), axis=1))
        axes.set_ylabel(name, rotation=0, ha="right", va="center")
        axes.set_xticks([])
        axes.set_yticks([])
    figure.suptitle("The domains of the server and of the users", x=0.02, ha="left", fontsize=11)
    return _save(figure, path)


def _save(figure: Figure, path: Path) -> Path:
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=130)
    plt.close(figure)
    return path
