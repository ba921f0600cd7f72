"""Figures stay readable and bounded: many tasks, many rows, and names in any script and of any length."""

import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont
from matplotlib.ft2font import FT2Font
from matplotlib.image import imread
from matplotlib.text import Text

from dua_lightning.report import figures, fonts, reduce
from dua_lightning.report.records import COLUMNS
from dua_lightning.report.reduce import Reduced

Draw = Callable[[Reduced, Path], Path]
NAMES = (
    *("小明", "🙂 zoë", "n" * 200, "two\nlines", "אבג \u202e", "[b] $x$ \\alpha", "tab\t \x1b[2J \x00", "a--b"),
    "\udce9",
)
CIRCLED = "\u24b6"
"""A letter in a circle: matplotlib's DejaVu Sans lacks it, and the STIX font that comes with it does not."""


def of(rows: int = 1, users: int = 1, tasks: int = 2, seeds: int = 1) -> Reduced:
    """Results of rows and users called 0, 1, .."""
    key = ("digits", "mlp", "racl", "mas", "none")
    lines = [
        (*key, f"{row}", "paper", "user", "last", "images", f"{user}", 1, seed, t, j, (7 * row + 5 * t + 3 * j) % 90.0)
        for row, user, seed, t in product(range(rows), range(users), range(seeds), range(1, tasks + 1))
        for j in range(1, t + 1)
    ]
    return reduce.reduce([pd.DataFrame(lines, columns=COLUMNS)])


def named(found: Reduced, names: tuple[str, ...]) -> Reduced:
    """The same with these names of rows and users."""
    draws = found.draws
    new = {axis: draws[axis].map(lambda number: names[int(number)]) for axis in ("row", "label", "user")}
    means = {(*key[:3], names[int(key[3])]): R for key, R in found.means.items()}
    return Reduced(draws.assign(**new), means)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved, as they are drawn."""
    found: list[Figure] = []
    save = Figure.savefig

    def saving(figure: Figure, *args: Any, **kwargs: Any) -> None:
        save(figure, *args, **kwargs)
        found.append(figure)

    monkeypatch.setattr(Figure, "savefig", saving)
    return found


def overlapping(figure: Figure) -> list[str]:
    """Texts of one axes or of the figure that are drawn over each other."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    groups: list[Any] = [[*axes.texts, *axes.get_xticklabels(), *axes.get_yticklabels()] for axes in figure.axes]
    wrong = []
    for group in groups:
        texts = [text for text in group if text.get_text() and text.get_visible() and not text.get_rotation()]
        boxes = [text.get_window_extent(renderer).padded(-1) for text in texts]
        for i, box in enumerate(boxes):
            wrong += [f"{texts[i].get_text()} {texts[j].get_text()}" for j in range(i) if box.overlaps(boxes[j])]
    return wrong


@pytest.mark.parametrize("tasks", [1, 5, 8, 9, 50])
@pytest.mark.parametrize("draw", [figures.accuracy_matrices, figures.forgetting_curves])
def test_no_tick_and_no_number_is_over_another(draw: Draw, tasks: int, drawn: list[Figure], tmp_path: Path) -> None:
    draw(of(rows=2, tasks=tasks), tmp_path / "figure.png")
    assert not overlapping(drawn[0])
    numbers = [text.get_text() for axes in drawn[0].axes for text in axes.texts]
    if draw is figures.accuracy_matrices:
        assert len(numbers) == (tasks * (tasks + 1) if tasks <= figures.TASKS_NUMBERED else 0)


def test_curves_of_many_tasks_have_a_scale_and_those_of_few_a_legend(drawn: list[Figure], tmp_path: Path) -> None:
    for tasks in (5, 50):
        names = [f"task {n}" for n in range(tasks)]
        epochs = pd.DataFrame(
            [(1, "EWC", name, epoch, 50.0 + epoch) for name in names for epoch in (1, 2)],
            columns=["seed", "experts", "task", "epoch", "val_accuracy"],
        )
        figures.training_curves(epochs, tmp_path / "training.png")
    few, many = drawn
    assert [text.get_text() for text in few.legends[0].get_texts()] == [f"task {n}" for n in range(5)]
    assert not many.legends
    assert len(many.axes) == len(few.axes) + 1


@pytest.mark.parametrize("draw", [figures.accuracies, figures.user_map, figures.spread])
def test_a_figure_of_many_rows_is_bounded(draw: Draw, tmp_path: Path) -> None:
    height, width, _ = imread(draw(of(rows=200, users=2), tmp_path / "figure.png")).shape
    assert max(height, width) < 6000


def test_rows_without_a_panel_are_counted(drawn: list[Figure], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "MOST_PANELS", 2)
    figures.accuracy_matrices(of(rows=3), tmp_path / "figure.png")
    texts: list[Any] = drawn[0].findobj(Text)
    assert any(text.get_text().endswith("the first 2 of 3 rows") for text in texts)


@pytest.mark.parametrize(
    "draw",
    [figures.accuracies, figures.spread, figures.accuracy_matrices, figures.forgetting_curves, figures.user_map],
)
def test_names_of_any_kind_are_drawn_without_a_warning(draw: Draw, drawn: list[Figure], tmp_path: Path) -> None:
    found = named(of(rows=len(NAMES), users=len(NAMES), seeds=2), NAMES)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path = draw(found, tmp_path / "figure.svg")
    ElementTree.parse(path)
    longest = max(len(line) for text in drawn[0].findobj(Text) for line in text.get_text().split("\n"))
    assert longest < 140


@pytest.mark.parametrize("draw", [figures.accuracy_matrices, figures.forgetting_curves])
def test_rows_that_differ_at_the_end_of_a_long_name_are_told_apart(
    draw: Draw, drawn: list[Figure], tmp_path: Path
) -> None:
    names = tuple(f"MAS-IMM, calibrated server statistics + AdaBN of {count} images" for count in (5, 20))
    draw(named(of(rows=2), names), tmp_path / "figure.png")
    titles = [axes.get_title() for axes in drawn[0].axes[:2]]
    assert [" ".join(title.split()) for title in titles] == list(names)
    draw(named(of(), names), tmp_path / "figure.png")
    assert drawn[1].axes[0].get_title() == "MAS-IMM, calibrated\nserver statistics ..."


@pytest.mark.parametrize("draw", [figures.accuracy_matrices, figures.forgetting_curves])
def test_tasks_are_called_by_their_names(draw: Draw, drawn: list[Figure], tmp_path: Path) -> None:
    names = ("Küche und andere Räume des Hauses", "<b>Bad</b>", "three")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path = draw(replace(of(tasks=3), tasks={"digits": names}), tmp_path / "figure.svg")
    ElementTree.parse(path)
    ticks = [label.get_text() for label in drawn[0].axes[0].get_xticklabels()]
    assert ticks == ["Küche und a...", "<b>Bad</b>", "three"]
    # Some of many tasks are named.
    rooms = tuple(f"room {n}" for n in range(1, 21))
    draw(replace(of(tasks=20), tasks={"digits": rooms}), tmp_path / "figure.svg")
    ticks = [label.get_text() for label in drawn[1].axes[0].get_xticklabels()]
    assert ticks == [f"room {n}" for n in range(1, 21, 3)]
    # The names of another number of tasks are not those of these.
    draw(replace(of(tasks=2), tasks={"digits": names}), tmp_path / "figure.svg")
    assert [label.get_text() for label in drawn[2].axes[0].get_xticklabels()] == ["1", "2"]


def test_the_curve_over_a_few_images_ends_at_all(drawn: list[Figure], tmp_path: Path) -> None:
    columns = ["row", "images", "accuracy", "difference", "CI"]
    found = pd.DataFrame([("a", 5, 60.0, -10.0, 2.0), ("b", 20, 69.0, -1.0, math.nan), ("c", math.inf, 70.0, 0.0, 0.0)])
    figures.few_images(found.set_axis(columns, axis="columns"), tmp_path / "figure.svg")
    (axes,) = drawn[0].axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["5", "20", "all"]
    assert axes.lines[0].get_ydata().tolist() == [60.0, 69.0, 70.0]
    assert drawn[0].get_suptitle() == "a is -10.0 points from AdaBN of all images"


def test_differences_of_rows_with_long_names_are_drawn_without_a_warning(tmp_path: Path) -> None:
    pairs = reduce.differences(named(of(rows=4, seeds=2), tuple("abcd"[n] * 90 for n in range(4))).draws)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures.difference_map(pairs, tmp_path / "figure.png")


def test_a_font_is_chosen_that_has_the_characters() -> None:
    assert fonts.families("plain text, ± ü") == [fonts.OWN]
    assert ord(CIRCLED) not in FT2Font(findfont(fonts.OWN)).get_charmap()
    own, other = fonts.families(f"a {CIRCLED}")
    assert own == fonts.OWN
    assert ord(CIRCLED) in FT2Font(findfont(other)).get_charmap()


def test_characters_that_no_font_has_ask_for_none() -> None:
    assert not [name for name in fonts.families("\U000e0080") if name.startswith(fonts.PLACEHOLDERS)]


def test_the_numbers_of_a_matrix_are_its_own(drawn: list[Figure], tmp_path: Path) -> None:
    found = of(tasks=3)
    figures.accuracy_matrices(found, tmp_path / "figure.png")
    (R,) = found.matrices.values()
    written = [int(text.get_text()) for text in drawn[0].axes[0].texts]
    assert written == [round(R[t, j]) for t, j in np.argwhere(~np.isnan(R)) if not math.isnan(R[t, j])]
