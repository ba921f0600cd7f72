"""Whatever stands on the command line ends in a run or in one clear line."""

import pytest

from tests.faults import configs
from tests.faults.configs import WORDS, drawn, settings
from tests.helpers.cli import Done

QUICK, ALL = 40, 1000


def faults(count: int) -> list[tuple[tuple[str, ...], str]]:
    """The command lines that end badly, and how."""
    return [(arguments, wrong) for arguments, wrong in configs.verdicts(drawn(count)) if wrong]


@pytest.mark.slow
def test_random_overrides_end_in_a_run_or_in_one_line() -> None:
    assert not faults(QUICK)


@pytest.mark.slow
def test_a_thousand_random_overrides_end_in_a_run_or_in_one_line() -> None:
    assert not faults(ALL)


def test_what_can_be_drawn_reaches_every_part_of_the_configuration() -> None:
    words = " ".join((*settings(), *WORDS))
    for part in ("seed", "threads", "trainer.", "data.", "model.", "method.", "adapt.", "importance.", "paths.", "${"):
        assert part in words


@pytest.mark.parametrize(
    ("done", "wrong"),
    [
        (Done(0, "a table", ""), False),
        (Done(2, "", "error: seed=x\n"), False),
        (Done(1, "", "error: seed=x\n"), True),
        (Done(2, "", "error: seed=x\nand more\n"), True),
        (Done(0, "", "Traceback (most recent call last):"), True),
        (Done(-9, "", ""), True),
    ],
)
def test_a_bad_end_is_seen(done: Done, wrong: bool) -> None:
    assert bool(configs.fault(done)) == wrong
