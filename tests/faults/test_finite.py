"""A NaN anywhere is said, or is read by nobody; it never becomes a number."""

from pathlib import Path

import pytest

from dua_lightning import evaluation
from tests.faults import finite

QUICK, ALL = 24, 1000

pytestmark = pytest.mark.filterwarnings("ignore")


def faults(count: int, folder: Path) -> list[tuple[object, str]]:
    return [(what, wrong) for what, wrong in finite.verdicts(count, folder) if wrong]


def test_no_number_comes_of_a_nan(tmp_path: Path) -> None:
    assert not faults(QUICK, tmp_path)


@pytest.mark.slow
def test_no_number_comes_of_a_thousand(tmp_path: Path) -> None:
    assert not faults(ALL, tmp_path)


def test_what_is_drawn_has_every_place_and_each_choice() -> None:
    trials = finite.drawn(ALL)
    for name, count in (("place", 6), ("psi", 3), ("chi", 4), ("statistics", 3), ("phi", 8)):
        assert len({getattr(trial, name) for trial in trials}) == count, name


@pytest.mark.slow
def test_an_accuracy_that_counts_nan_as_a_class_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task_logits = evaluation.task_logits
    monkeypatch.setattr(evaluation, "task_logits", lambda *given: task_logits(*given).nan_to_num())
    assert "accuracies" in " ".join(wrong for _, wrong in faults(QUICK, tmp_path))
