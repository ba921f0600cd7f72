"""The pictures of runs and reports, in one style.

They can be read in black and white: what differs in colour differs in marker, line or number as well. Each title says
what to see.
"""

import re
import textwrap
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
import pandas as pd

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from dua_lightning.report import fonts, headlines
from dua_lightning.report.characters import writable
from dua_lightning.report.reduce import AXES, Reduced, over, over_seeds, repeated
from dua_lightning.report.statistics import LEVEL
from dua_lightning.store.files import replacing

if TYPE_CHECKING:
    from dua_lightning.data.benchmark import Benchmark

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
    # Text in a PDF stays text, in a font that publishers take.
    "pdf.fonttype": 42,
}
"""matplotlib's settings for every figure."""
UNDATED: Any = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
"""Metadata that leave out the time when a file was made, by the end of its name."""
PANELS_PER_LINE = 5
"""Figures have at most so many panels side by side."""
USERS_MARKED = 5
"""More users than this are grey dots."""
USERS_NAMED = 24
"""More users than this get no names on an axis."""
ROWS_NUMBERED = 30
"""More rows than this get no numbers in the squares of their differences."""
TASKS_NUMBERED = 8
"""More tasks than this get no numbers in the squares of their accuracies, and no line of their own in a legend."""
TICKS = 8
"""The largest number of ticks on the axis of a panel that counts tasks."""
MOST_PANELS = 60
"""Rows beyond this have no panel."""
TALLEST = 40.0
"""The largest height of a figure in inches; at more rows than fit, not every name is written."""
PER_LEGEND = 28
"""Curves beyond this have no line of their own: from here on colour and line are those of another one."""
SLANTED = 22
"""The characters of a line of a name that is written slanted under an axis."""
PANEL = 22
"""The characters of a line of a panel's title."""
TASK = 14
"""The characters of a task's name along an axis."""
MOST_LINES = 5
"""The largest number of lines of a name."""
LEDGER_LINE, LEDGER_TITLE = 0.27, 0.45
"""The inches of a line of the ledger, and of the title of each of its parts."""
LONGEST_WORD = 30
"""The largest number of characters of a word in a title."""
TITLE_LINES = 4
"""The largest number of lines of a title."""


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
    with _saved(path, (8, _height(1.4 + 0.38 * len(means))), headlines.accuracy(draws)) as (figure, grid):
        axes = grid.flat[0]
        for y, (mean, half, of_users) in enumerate(zip(means, halves, each.to_numpy(), strict=True)):
            axes.errorbar(mean, y, xerr=half, fmt="|", color="black", capsize=4, markersize=14)
            if few:
                for value, colour, marker in zip(of_users, COLOURS, MARKERS, strict=False):
                    axes.scatter(value, y, s=28, color=colour, marker=marker, zorder=3)
            else:
                # They are drawn as pixels: thousands of shapes would make a vector drawing of megabytes.
                axes.scatter(of_users, np.full(len(of_users), y), s=12, color="0.65", rasterized=True)
        legend = zip(_names(each), COLOURS, MARKERS, strict=False) if few else [("a user", "0.65", "o")]
        for text, colour, marker in legend:
            axes.scatter([], [], color=colour, marker=marker, label=text)
        axes.errorbar([], [], xerr=[], fmt="|", color="black", label=f"all users{over_what}")
        _name(axes.yaxis, means.index, TALLEST / 0.38)
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
        rows = reduced.draws.groupby("row", sort=False)["average_accuracy"]
        names = _names(reduced.draws["row"].unique())
        for n, (name, (_, of_row)) in enumerate(zip(names, islice(rows, PER_LEGEND), strict=False)):
            look = {key: _look(n)[key] for key in ("color", "linestyle")}
            axes.plot(np.percentile(of_row, levels), levels, label=name, **look)
        axes.set_xlabel(_counted("average accuracy after the last task (%)", PER_LEGEND, rows.ngroups))
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
    names = _room(reduced.task_names)
    size = ((2.3 + names) * columns + 0.8, (2.4 + names / 2) * lines + 0.7)
    with _saved(path, size, headlines.kept(found), lines, columns) as (figure, grid):
        low = float(min(np.nanmin(R) for R in found.values()))
        for axes, name, R in zip(grid.flat, _names(found, PANEL), found.values(), strict=False):
            image = _squares(axes, R, "viridis", low, 100, ".0f" if len(R) <= TASKS_NUMBERED else "")
            _tasks(axes.xaxis, reduced.task_names[: len(R)], first=0)
            _tasks(axes.yaxis, reduced.task_names[: len(R)], first=0, slanted=False)
            axes.set_title(name)
        figure.supxlabel(
            _counted("accuracy (%) on task: read each column downwards", MOST_PANELS, len(found)), fontsize=9
        )
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
    names = _room(reduced.task_names)
    # Names are in the legend and below the lowest panels.
    size = (2.2 * columns + 0.8 + 1.5 * names, 2.0 * lines + 0.9 + names / 2)
    common = _common(list(found.values()))
    with _saved(path, size, headlines.lost(found, reduced.task_names[0]), lines, columns, sharex=True, sharey=True) as (
        figure,
        grid,
    ):
        for axes, name, R in zip(grid.flat, _names(found, PANEL), found.values(), strict=False):
            after = np.arange(1, len(R) + 1)
            for j in range(len(R)):
                axes.plot(after, common[: len(R), j], color="0.85", linewidth=3, zorder=1)
                axes.plot(after, R[:, j], **_task(j, len(common)))
            axes.set_title(name)
            _tasks(axes.xaxis, reduced.task_names[: len(R)], first=1)
            axes.grid(axis="y")
        _legend(figure, grid, reduced.task_names)
        figure.supxlabel(_counted("after learning task", MOST_PANELS, len(found)), fontsize=9)
        figure.supylabel("accuracy (%)", fontsize=9)
    return path


def few_images(found: pd.DataFrame, path: Path) -> Path:
    """Draw the accuracy of AdaBN over the number of images that it takes.

    Args:
        found: The lines of `verdict.few`.
        path: The file.

    Returns:
        The file.
    """
    places = range(len(found))
    with _saved(path, (6, 3), headlines.few_images(found)) as (_, grid):
        axes = grid.flat[0]
        axes.errorbar(places, found["accuracy"], yerr=found["CI"].fillna(0), fmt="o-", color=COLOURS[0], capsize=4)
        axes.set_xticks(places, [*(f"{images:,.0f}" for images in found["images"][:-1]), "all"])
        axes.set_xlabel("images of each task on the device, with the 95 % interval of the difference to all")
        axes.set_ylabel("average accuracy (%)")
        axes.grid(axis="y")
    return path


def ledger(found: pd.DataFrame, gains: pd.DataFrame, path: Path) -> Path:
    """Draw the gain of each line of the ledger over the server's best: its mean, its 95 % interval and each user's.

    Args:
        found: The lines of `ledger.ledger`.
        gains: Each user's gains, as `ledger.gains` gives them.
        path: The file.

    Returns:
        The file.
    """
    kinds = [lines for _, lines in found.groupby("ledger", sort=False)]
    ends = np.cumsum([LEDGER_TITLE + LEDGER_LINE * len(lines) for lines in kinds])
    shown = max(1, int((ends <= TALLEST).sum()))
    ratios = {"height_ratios": [LEDGER_TITLE + LEDGER_LINE * len(lines) for lines in kinds[:shown]]}
    size = (8.0, 1.2 + float(ends[shown - 1]))
    with _saved(path, size, headlines.ledger(found), shown, sharex=True, gridspec_kw=ratios) as (figure, grid):
        for axes, lines in zip(grid.flat, kinds, strict=False):
            for y, line in enumerate(lines.to_dict("records")):
                users = gains[line["row"]].dropna()
                axes.scatter(users, np.full(len(users), y), s=12, color="0.65", rasterized=True)
                mean, half = np.nan_to_num((line["gain"], line["gain CI"]))
                axes.errorbar(mean, y, xerr=half, fmt="|", color="black", capsize=3, markersize=10)
            texts = [f"{line['line']}, {line['accuracy']:.1f} %" for line in lines.to_dict("records")]
            _name(axes.yaxis, texts, len(texts), 60)
            axes.set_ylim(len(lines) - 0.5, -0.5)
            axes.axvline(0, color=COLOURS[5], linewidth=0.8)
            axes.set_title(*_names(lines["ledger"].iloc[:1], 70), loc="left")
            axes.grid(axis="x")
        more = "" if shown == len(kinds) else f"; the first {shown} of {len(kinds)} parts"
        figure.supxlabel(f"points over {found['server'].iloc[0]}; grey: a user; 95 % over users{more}", fontsize=9)
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
    height = _height(1.5 + 0.32 * len(values)) + (_slanted(values.columns) if named else 0)
    with _saved(path, (width, height), headlines.users(found)) as (figure, grid):
        axes = grid.flat[0]
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
        image = _squares(axes, values.to_numpy(), "viridis", low, high, ".0f" if named else "")
        axes.set_aspect("auto")
        _name(axes.yaxis, values.index, TALLEST / 0.32)
        if named:
            _name(axes.xaxis, values.columns, USERS_NAMED, SLANTED, rotation=30, ha="right")
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
    side = _height(2.4 + 0.45 * len(names))
    with _saved(path, (max(6.5, side + 0.8), side + _slanted(names)), headlines.differences(pairs)) as (figure, grid):
        axes = grid.flat[0]
        most = float(np.nanmax(np.abs(values))) or 1.0
        image = _squares(axes, values, "PuOr", -most, most, "+.1f" if len(names) <= ROWS_NUMBERED else "")
        for i, j in clear:
            axes.add_patch(Rectangle((j - 0.46, i - 0.46), 0.92, 0.92, fill=False, linewidth=1.4))
        _name(axes.xaxis, names, TALLEST / 0.45, SLANTED, rotation=40, ha="right")
        _name(axes.yaxis, names, TALLEST / 0.45)
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
        for axes, name, kind in zip(grid.flat, _names(kinds, PANEL), kinds, strict=False):
            of_kind = epochs[epochs["experts"] == kind]
            for task, of_task in of_kind.groupby("task", sort=False):
                curve = of_task.groupby("epoch")["val_accuracy"].mean()
                axes.plot(curve.index, curve.to_numpy(), **_task(tasks.index(task), len(tasks)), markevery=5)
            axes.set_title(name)
            axes.locator_params(axis="x", integer=True)
            axes.grid(axis="y")
        _legend(figure, grid, tasks)
        figure.supxlabel(_counted("epoch", MOST_PANELS, len(kinds)), fontsize=9)
        figure.supylabel("validation accuracy (%)", fontsize=9)
    return path


def gallery(benchmark: "Benchmark", path: Path, shown: int = 12) -> Path:
    """Show some images of every task, spread evenly, of the server's training data and of each user's device.

    Args:
        benchmark: The benchmark.
        path: The file.
        shown: The number of images in a line.

    Returns:
        The file.
    """
    # Reports, which show no pictures, do without torch.
    from dua_lightning.data.images import Images

    sides = {"server": Images.cat([data.train for data in benchmark.server])}
    sides |= {f"user {user.user}": user.validation for user in benchmark.users}
    size = (9, 0.95 * len(sides) + 0.4)
    with _saved(path, size, "The domains of the server and of the users", len(sides)) as (_, grid):
        for axes, (name, images) in zip(grid.flat, sides.items(), strict=True):
            chosen = images.pixels[np.linspace(0, len(images) - 1, shown).astype(int)]
            axes.imshow(np.concatenate(chosen.permute(0, 2, 3, 1).numpy(), axis=1))
            axes.set_ylabel(*_names([name]), rotation=0, ha="right", va="center")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(True)
    return path


@contextmanager
def _saved(
    path: Path, size: tuple[float, float], title: str, lines: int = 1, columns: int = 1, **shared: Any
) -> Iterator[tuple[Figure, np.ndarray]]:
    """Give a figure and its `(lines, columns)` axes to draw on; empty ones are taken away when it is saved."""
    heading = _wrapped(title, size[0])
    # Lines of the title beyond the first take no room from the axes.
    taller = size[1] + 0.18 * heading.count("\n")
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(
            lines, columns, figsize=(size[0], taller), layout="constrained", squeeze=False, **shared
        )
        try:
            yield figure, grid
            for axes in grid.flat:
                if not axes.has_data():
                    axes.set_axis_off()
            figure.suptitle(heading, x=0.01, ha="left")
            texts: list[Any] = figure.findobj(Text)
            family = fonts.families("".join(text.get_text() for text in texts))
            for text in texts:
                text.set_fontfamily(family)
            with replacing(path) as temporary, warnings.catch_warnings():
                # A character that no font has is a box.
                warnings.filterwarnings("ignore", message="Glyph")
                figure.savefig(temporary, metadata=UNDATED.get(path.suffix))
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


def _task(n: int, count: int) -> dict[str, Any]:
    """The look of the n-th of several tasks' curves; many are told apart by a scale of colours."""
    if count <= TASKS_NUMBERED:
        return _look(n)
    return {"color": matplotlib.colormaps["viridis"](n / (count - 1)), "linewidth": 0.8}


def _legend(figure: Figure, grid: np.ndarray, tasks: Sequence[str]) -> None:
    if len(tasks) <= TASKS_NUMBERED:
        handles = [Line2D([], [], **_task(n, len(tasks))) for n in range(len(tasks))]
        figure.legend(handles, _names(tasks, PANEL), title="task", loc="outside right center")
        return
    scale = ScalarMappable(Normalize(1, len(tasks)), "viridis")
    bar = figure.colorbar(scale, ax=grid, shrink=0.6, label="task", ticks=_ticks(len(tasks)))
    _tasks(bar.ax.yaxis, tasks, first=1, slanted=False)


def _panels(count: int) -> tuple[int, int]:
    columns = min(PANELS_PER_LINE, count)
    return columns, -(-min(count, MOST_PANELS) // columns)


def _counted(text: str, most: int, count: int) -> str:
    """The text of an axis, and that a figure has not all rows."""
    return text if count <= most else f"{text}; the first {most} of {count} rows"


def _height(inches: float) -> float:
    return min(TALLEST, inches)


def _ticks(count: int) -> np.ndarray:
    """Some of the numbers from 1 to `count`, the first and evenly spaced ones."""
    return np.arange(1, count + 1, -(-count // TICKS))


def _room(tasks: Sequence[str]) -> float:
    """The inches that the names of tasks take beside an axis beyond numbers."""
    return 0.07 * max(0, min(TASK, max(map(len, tasks))) - 3)


def _tasks(axis: Axis, names: Sequence[str], first: int, slanted: bool = True) -> None:
    """Write the tasks along an axis on which the first is at `first`; of many only some."""
    ticks = _ticks(len(names))
    plain = (_plain(names[tick - 1]) for tick in ticks)
    texts = [name if len(name) <= TASK else f"{name[: TASK - 3]}..." for name in plain]
    look: dict[str, Any] = {"rotation": 35, "ha": "right"} if slanted and max(map(len, texts)) > 3 else {}
    axis.set_ticks(ticks - 1 + first, texts, fontsize=8, **look)


def _slanted(names: Iterable[object]) -> float:
    """The inches that slanted names under an axis take beyond short ones."""
    return 0.05 * max(0, max(len(line) for name in _names(names, SLANTED) for line in name.split("\n")) - 12)


def _name(axis: Axis, names: Iterable[object], most: float, width: int = 34, **look: Any) -> None:
    """Write the names along an axis; of more than there is room for only some, evenly spaced."""
    texts = _names(names, width)
    places = range(0, len(texts), -(-len(texts) // int(most)))
    axis.set_ticks(places, [texts[place] for place in places], **look)


def _names(texts: Iterable[object], width: int = 34) -> list[str]:
    """Names for axes and panels, in up to two lines, or in more where these are what tells two names apart."""
    plain = [_plain(text) for text in texts]
    names = plain
    for most in range(2, MOST_LINES + 1):
        names = ["\n".join(textwrap.wrap(text, width, max_lines=most, placeholder=" ...")) for text in plain]
        if len(set(names)) == len(set(plain)):
            break
    return names


def _wrapped(title: str, inches: float) -> str:
    """Broken into lines that a figure of this width has room for, at the size of titles; long names are cut."""
    width = max(30, int(inches * 11.5))
    short = re.sub(rf"(\S{{{LONGEST_WORD}}})\S+", r"\1...", _plain(title))
    return "\n".join(textwrap.wrap(short, width, max_lines=TITLE_LINES, placeholder=" ..."))


def _plain(text: object) -> str:
    """Without what fonts and SVG have no characters for."""
    return writable(str(text), "utf-8").encode("utf-8", "backslashreplace").decode()
