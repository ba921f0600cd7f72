"""Folders may have any names, and nothing in them changes or vanishes without a word."""

from pathlib import Path

import pytest

from dua_lightning.data import decode, folder
from tests.faults import pictures

QUICK, ALL = 25, 1000


def faults(found: object) -> list[tuple[object, str]]:
    return [(what, wrong) for what, wrong in found if wrong]


def test_any_name_of_a_user_task_category_and_file_is_served(tmp_path: Path) -> None:
    assert not faults(pictures.named(QUICK, tmp_path / "at"))


@pytest.mark.slow
def test_a_thousand_names_are_served(tmp_path: Path) -> None:
    assert not faults(pictures.named(ALL, tmp_path / "at"))


def test_content_that_changes_under_equal_names_sizes_and_times_is_seen(tmp_path: Path) -> None:
    assert not faults(pictures.changed(QUICK, tmp_path))


def test_what_leads_nowhere_or_is_empty_is_named_at_each_level(tmp_path: Path) -> None:
    assert not faults(pictures.dead(tmp_path))


def test_what_is_drawn_has_names_of_every_kind() -> None:
    names = [name for trial in pictures.drawn(ALL) for name in trial]
    for one in (*"=,[]'\"\n\u202e\u05d0\u0301\udce9", "a" * 200):
        assert any(one in name for name in names), ascii(one)


def test_a_cache_that_goes_by_sizes_and_times_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "_digests", lambda paths: [path.stat().st_size for path in paths])
    assert faults(pictures.changed(2, tmp_path))


def test_folders_that_are_passed_over_in_silence_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder._Tree, "drop", lambda *_: None)
    assert "nothing was said" in [wrong for _, wrong in faults(pictures.dead(tmp_path))]
