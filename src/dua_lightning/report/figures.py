"""The pictures of runs and reports, in one style.

They can be read in black and white: what differs in colour differs in marker, line or number as well. Each title says
what to see.
"""

import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from dua_lightning.data.benchmark import Benchmark
from dua_lightning.data.images import Images
from dua_lightning.report import headlines
from dua_lightning.report.reduce import AXES, Reduced, over, over_seeds, repeated
from dua_lightning.report.statistics import LEVEL
from dua_lightning.store.files import replacing

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
"""Okabe and Ito's palette, told apart by colour-blind readers; light yellow is left out."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":")
"""Markers and lines of several curves, in the order of the palette."""
STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "0.88",
    "legend.frameon": False,
    "figure.titlesize": 11,
    # A name with dollars is no formula.
    "text.parse_math": False,
    "savefig.dpi": 130,
    # The same picture is the same file.
    "svg.hashsalt": "dua",
}
"""matplotlib's settings for every figure."""
PANELS_PER_LINE = 5
"""Figures have at most so many panels side by side."""
USERS_MARKED = 5
"""More users than this are grey dots."""
USERS_NAMED = 24
"""More users than this get no names on an axis."""
ROWS_NUMBERED = 30
"""More rows than this get no numbers in the squares of their differences."""


def draw_all(reduced: Reduced, folder: Path) -> list[Path]:
    """Draw every figure that a run keeps of its records.

    Args:
        reduced: The reduced records.
        folder: The folder of the figures.

    Returns:
        The files.
    """
    first = spread(reduced, folder / "spread.png") if reduced.many else accuracies(reduced, folder / "accuracy.png")
    return [first, accuracy_matrices(reduced, folder / "matrices.png")]


def accuracies(reduced: Reduced, path: Path) -> Path:
    """Draw the average accuracy of each row: its mean and each user's.

    The 95 % interval is over seeds, or where there is one seed over users or iterations. Up to five users have each a
    marker; more are grey dots.

    Args:
        reduced: The reduced records.
        path: The file.

    Returns:
        The file.
    """
    draws = reduced.draws
    axis = next(iter(repeated(draws)), None)
    means = over_seeds(draws)["average_accuracy"]
    halves = [0.0] * len(means) if axis is None else over(draws, "average_accuracy", axis).half.fillna(0)
    each = over_seeds(draws, ("row", "user"))["average_accuracy"].unstack(sort=False)[draws["user"].unique()]
    few = each.shape[1] <= USERS_MARKED
    over_what = "" if axis is None else f", 95 % interval over {AXES[axis]}"
    with _saved(path, (8, 1.4 + 0.38 * len(means)), headlines.accuracy(draws)) as (figure, grid):
        axes = grid.flat[0]
        for y, (mean, half, of_users) in enumerate(zip(means, halves, each.to_numpy(), strict=True)):
            axes.errorbar(mean, y, xerr=half, fmt="|", color="black", capsize=4, markersize=14)
            if few:
                for value, colour, marker in zip(of_users, COLOURS, MARKERS, strict=False):
                    axes.scatter(value, y, s=28, color=colour, marker=marker, zorder=3)
            else:
                # They are drawn as pixels: thousands of shapes would make a vector drawing of megabytes.
                axes.scatter(of_users, np.full(len(of_users), y), s=12, color="0.65", rasterized=True)
        for text, colour, marker in zip(each, COLOURS, MARKERS, strict=False) if few else [("a user", "0.65", "o")]:
            axes.scatter([], [], color=colour, marker=marker, label=text)
        axes.errorbar([], [], xerr=[], fmt="|", color="black", label=f"all users{over_what}")
        axes.set_yticks(range(len(means)), _names(means.index))
        axes.invert_yaxis()
        axes.set_xlabel("average accuracy after the last task (%)")
        axes.grid(axis="x")
        figure.legend(loc="outside lower center", ncols=4)
    return path


def spread(reduced: Reduced, path: Path) -> Path:
    """Draw the share of users that have at most some accuracy: a line for each row.

    Args:
        reduced: The reduced records.
        path: The file.

    Returns:
        The file.
    """
    levels = np.linspace(0, 100, 201)
    with _saved(path, (8, 4.2), headlines.spread(reduced.draws)) as (figure, grid):
        axes = grid.flat[0]
        for n, (name, of_row) in enumerate(reduced.draws.groupby("row", sort=False)["average_accuracy"]):
            axes.plot(np.percentile(of_row, levels), levels, color=_look(n)["color"], linestyle=_look(n)["linestyle"])
            axes.lines[-1].set_label(str(name))
        axes.set_xlabel("average accuracy after the last task (%)")
        axes.set_ylabel("users with at most this (%)")
        axes.grid()
        figure.legend(loc="outside lower center", ncols=4)
    return path


def accuracy_matrices(reduced: Reduced, path: Path) -> Path:
    """Draw the accuracy matrix R of each row, averaged over users, iterations and seeds.

    Args:
        reduced: The reduced records.
        path: The file.

    Returns:
        The file.
    """
    found = reduced.matrices
    columns, lines = _panels(len(found))
    size = (2.3 * columns + 0.8, 2.4 * lines + 0.7)
    with _saved(path, size, headlines.kept(found), lines, columns) as (figure, grid):
        low = float(min(np.nanmin(R) for R in found.values()))
        for axes, (name, R) in zip(grid.flat, found.items(), strict=False):
            image = _squares(axes, R, "viridis", low, 100, ".0f")
            ticks = range(len(R))
            axes.set_xticks(ticks, [str(n + 1) for n in ticks])
            axes.set_yticks(ticks, [str(n + 1) for n in ticks])
            axes.set_title(*_names([name], 22))
        figure.supxlabel("accuracy (%) on task: read each column downwards", fontsize=9)
        figure.supylabel("after learning task", fontsize=9)
        figure.colorbar(image, ax=grid, shrink=0.6)
    return path


def forgetting_curves(reduced: Reduced, path: Path) -> Path:
    """Draw the accuracy on each task after it and each later one was learnt, averaged over users, iterations and seeds.

    Each row has a panel; behind it, in grey, is the mean of all rows.

    Args:
        reduced: The reduced records.
        path: The file.

    Returns:
        The file.
    """
    found = reduced.matrices
    columns, lines = _panels(len(found))
    size = (2.2 * columns + 0.8, 2.0 * lines + 0.9)
    common = _common(list(found.values()))
    with _saved(path, size, headlines.lost(found), lines, columns, sharex=True, sharey=True) as (figure, grid):
        for axes, (name, R) in zip(grid.flat, found.items(), strict=False):
            after = np.arange(1, len(R) + 1)
            for j in range(len(R)):
                axes.plot(after, common[: len(R), j], color="0.85", linewidth=3, zorder=1)
                axes.plot(after, R[:, j], **_look(j), label=f"task {j + 1}")
            axes.set_title(*_names([name], 22))
            axes.set_xticks(after)
            axes.grid(axis="y")
        handles, labels = grid.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center")
        figure.supxlabel("after learning task", fontsize=9)
        figure.supylabel("accuracy (%)", fontsize=9)
    return path


def user_map(reduced: Reduced, path: Path) -> Path:
    """Draw the average accuracy of each row (downwards) for each user (across), averaged over iterations and seeds.

    More than a couple of dozen users have no names, and are in the order of their mean.

    Args:
        reduced: The reduced records.
        path: The file.

    Returns:
        The file.
    """
    found = reduced.draws
    values = found.pivot_table(index="row", columns="user", values="average_accuracy", sort=False)
    values = values.reindex(index=found["row"].unique(), columns=found["user"].unique())
    named = values.shape[1] <= USERS_NAMED
    if not named:
        values = values[values.mean().sort_values().index]
    width = 2.4 + max(4.6, 0.55 * values.shape[1]) if named else 9
    with _saved(path, (width, 1.5 + 0.32 * len(values)), headlines.users(found)) as (figure, grid):
        axes = grid.flat[0]
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
        image = _squares(axes, values.to_numpy(), "viridis", low, high, ".0f" if named else "")
        axes.set_aspect("auto")
        axes.set_yticks(range(len(values)), _names(values.index))
        if named:
            axes.set_xticks(range(values.shape[1]), _names(values.columns), rotation=30, ha="right")
        axes.set_xlabel("user" if named else f"{values.shape[1]:,} users, in the order of their mean")
        figure.colorbar(image, ax=axes, shrink=0.8, label="average accuracy (%)")
    return path


def difference_map(pairs: pd.DataFrame, path: Path) -> Path:
    """Draw each row minus each other one, in points; a frame is around those that the corrected test calls significant.

    Args:
        pairs: The lines of `reduce.differences`.
        path: The file.

    Returns:
        The file.
    """
    names = list(dict.fromkeys([*pairs["first"], *pairs["second"]]))
    values, clear = np.full((len(names), len(names)), np.nan), []
    for pair in pairs.to_dict("records"):
        i, j = names.index(pair["first"]), names.index(pair["second"])
        values[i, j], values[j, i] = pair["difference"], -pair["difference"]
        if pair["p (Holm)"] < 1 - LEVEL:
            clear += [(i, j), (j, i)]
    # A difference that is rounded to zero then has no sign.
    values = values.round(1) + 0.0
    side = 2.4 + 0.45 * len(names)
    with _saved(path, (max(6.5, side + 0.8), side), headlines.differences(pairs)) as (figure, grid):
        axes = grid.flat[0]
        most = float(np.nanmax(np.abs(values))) or 1.0
        image = _squares(axes, values, "PuOr", -most, most, "+.1f" if len(names) <= ROWS_NUMBERED else "")
        for i, j in clear:
            axes.add_patch(Rectangle((j - 0.46, i - 0.46), 0.92, 0.92, fill=False, linewidth=1.4))
        axes.set_xticks(range(len(names)), _names(names), rotation=40, ha="right")
        axes.set_yticks(range(len(names)), _names(names))
        axes.set_xlabel("minus this row (framed: significant)")
        figure.colorbar(image, ax=axes, shrink=0.7, label="difference (points)")
    return path


def training_curves(epochs: pd.DataFrame, path: Path) -> Path:
    """Draw the validation accuracy of each training, epoch by epoch, averaged over the seeds that came so far.

    Each kind of experts has a panel, each task a line.

    Args:
        epochs: A line for each epoch of a training.
        path: The file.

    Returns:
        The file.
    """
    kinds = list(dict.fromkeys(epochs["experts"]))
    tasks = list(dict.fromkeys(epochs["task"]))
    columns, lines = _panels(len(kinds))
    size = (2.4 * columns + 0.8, 2.0 * lines + 0.9)
    with _saved(path, size, headlines.training(epochs), lines, columns, sharey=True) as (figure, grid):
        for axes, kind in zip(grid.flat, kinds, strict=False):
            of_kind = epochs[epochs["experts"] == kind]
            for task, of_task in of_kind.groupby("task", sort=False):
                curve = of_task.groupby("epoch")["val_accuracy"].mean()
                axes.plot(curve.index, curve.to_numpy(), **_look(tasks.index(task)), markevery=5)
            axes.set_title(*_names([kind], 22))
            axes.locator_params(axis="x", integer=True)
            axes.grid(axis="y")
        handles = [Line2D([], [], **_look(n)) for n in range(len(tasks))]
        figure.legend(handles, tasks, title="task", loc="outside right center")
        figure.supxlabel("epoch", fontsize=9)
        figure.supylabel("validation accuracy (%)", fontsize=9)
    return path


def gallery(benchmark: Benchmark, path: Path, shown: int = 12) -> Path:
    """Show some images of every task, spread evenly, of the server's training data and of each user's device.

    Args:
        benchmark: The benchmark.
        path: The file.
        shown: The number of images in a line.

    Returns:
        The file.
    """
    sides = {"server": Images.cat([data.train for data in benchmark.server])}
    sides |= {f"user {user.user}": user.validation for user in benchmark.users}
    size = (9, 0.95 * len(sides) + 0.4)
    with _saved(path, size, "The domains of the server and of the users", len(sides)) as (_, grid):
        for axes, (name, images) in zip(grid.flat, sides.items(), strict=True):
            chosen = images.pixels[np.linspace(0, len(images) - 1, shown).astype(int)]
            axes.imshow(np.concatenate(chosen.permute(0, 2, 3, 1).numpy(), axis=1))
            axes.set_ylabel(name, rotation=0, ha="right", va="center")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(True)
    return path


@contextmanager
def _saved(
    path: Path, size: tuple[float, float], title: str, lines: int = 1, columns: int = 1, **shared: Any
) -> Iterator[tuple[Figure, np.ndarray]]:
    """Give a figure and its `(lines, columns)` axes to draw on; empty ones are taken away when it is saved."""
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(lines, columns, figsize=size, layout="constrained", squeeze=False, **shared)
        try:
            yield figure, grid
            for axes in grid.flat:
                if not axes.has_data():
                    axes.set_axis_off()
            figure.suptitle(_wrapped(title, size[0]), x=0.01, ha="left")
            with replacing(path) as temporary:
                figure.savefig(temporary, metadata={"Date": None} if path.suffix == ".svg" else None)
        finally:
            plt.close(figure)


def _squares(axes: Axes, values: np.ndarray, colours: str, low: float, high: float, number: str) -> AxesImage:
    """A square for each value that is one, with its number in black or white, whichever can be read."""
    image = axes.imshow(values, vmin=low, vmax=high, cmap=colours)
    axes.spines[:].set_visible(False)
    if number:
        for i, j in np.argwhere(~np.isnan(values)):
            *colour, _ = image.to_rgba(values[i, j])
            shade = "black" if np.dot(colour, (0.3, 0.59, 0.11)) > 0.5 else "white"
            axes.text(j, i, format(values[i, j], number), ha="center", va="center", color=shade, fontsize=8)
    return image


def _common(matrices: list[np.ndarray]) -> np.ndarray:
    """The mean of accuracy matrices, each entry over those that have it; NaN where none has."""
    N = max(map(len, matrices))
    stack = np.array([np.pad(R, (0, N - len(R)), constant_values=np.nan) for R in matrices])
    known = (~np.isnan(stack)).sum(axis=0)
    return np.where(known, np.nansum(stack, axis=0) / np.maximum(known, 1), np.nan)


def _look(n: int) -> dict[str, Any]:
    """Colour, marker and line of the n-th of several curves."""
    return {
        "color": COLOURS[n % len(COLOURS)],
        "marker": MARKERS[n % len(MARKERS)],
        "linestyle": LINES[n % len(LINES)],
        "markersize": 4,
        "linewidth": 1.2,
    }


def _panels(count: int) -> tuple[int, int]:
    columns = min(PANELS_PER_LINE, count)
    return columns, -(-count // columns)


def _names(texts: Iterable[object], width: int = 34) -> list[str]:
    """Names for axes and panels, in up to two lines."""
    return ["\n".join(textwrap.wrap(str(text), width, max_lines=2, placeholder=" ...")) for text in texts]


def _wrapped(title: str, inches: float) -> str:
    """Broken into lines that a figure of this width has room for, at the size of titles."""
    return "\n".join(textwrap.wrap(title, max(30, int(inches * 11.5))))
