"""A run that is killed at any moment, or whose writes fail, ends with the same bits as one that nothing disturbed."""

from pathlib import Path

import pytest

from tests.faults import driver
from tests.faults.driver import Undisturbed

KINDS = ("enospc", "eio")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    return driver.undisturbed(driver.RUN, tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    return driver.undisturbed(driver.ONE, tmp_path_factory.mktemp("one") / "run")


def test_kills_change_nothing(one: Undisturbed, tmp_path: Path) -> None:
    for i, point in enumerate(driver.points(one, 3)):
        assert driver.killed(point, one, tmp_path / str(i)) == ""


@pytest.mark.slow
def test_fifty_kills_change_nothing(whole: Undisturbed, tmp_path: Path) -> None:
    wrong = {point: driver.killed(point, whole, tmp_path / str(i)) for i, point in enumerate(driver.points(whole, 50))}
    assert not {point: text for point, text in wrong.items() if text}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_write_that_fails_is_one_line_and_loses_nothing(kind: str, one: Undisturbed, tmp_path: Path) -> None:
    for boundary in (one.boundaries // 2, one.boundaries):
        assert driver.failed_at(kind, boundary, one, tmp_path / str(boundary)) == ""


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_write_may_fail(kind: str, one: Undisturbed, tmp_path: Path) -> None:
    places = range(1, one.boundaries + 1)
    wrong = {place: driver.failed_at(kind, place, one, tmp_path / str(place)) for place in places}
    assert not {place: text for place, text in wrong.items() if text}


@pytest.mark.slow
def test_another_result_is_seen(one: Undisturbed, tmp_path: Path) -> None:
    other = driver.undisturbed((*driver.ONE, "seed=2"), tmp_path / "other")
    assert driver.killed_at(1, Undisturbed(one.arguments, other.outcome, 1, 1), tmp_path / "run").startswith("other ")


@pytest.mark.slow
def test_a_fork_behaves_as_a_fresh_process(one: Undisturbed, tmp_path: Path) -> None:
    assert driver.spawned("kill:30", one.arguments, tmp_path).status == -9
    done = driver.spawned("count:0", one.arguments, tmp_path)
    assert done.status == 0, done.err
    assert driver.outcome(tmp_path) == one.outcome


@pytest.mark.slow
def test_runs_of_one_second_have_folders_of_their_own(tmp_path: Path) -> None:
    assert driver.same_second(3, tmp_path) == ["", "", ""]


@pytest.mark.slow
def test_a_second_live_run_in_one_folder_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    assert driver.same_folder(tmp_path) == ["", "", ""]
