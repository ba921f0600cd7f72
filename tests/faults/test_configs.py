"""Whatever stands on the command line ends in a run or in one clear line."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.cli import Done
from tests.faults import configs

QUICK, ALL = 60, 1000


def drawn(count: int) -> list[tuple[str, ...]]:
    """The first `count` command lines of a fixed order; drawn before they are run, so that they run side by side."""
    found: list[tuple[str, ...]] = []

    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(configs.overrides())
    def draw(arguments: tuple[str, ...]) -> None:
        found.append(arguments)

    draw()
    return found


def faults(command_lines: list[tuple[str, ...]]) -> list[tuple[tuple[str, ...], str]]:
    """The command lines that are handled badly, and what is wrong."""
    with ThreadPoolExecutor(2) as pool:
        verdicts = pool.map(lambda arguments: configs.fault(configs.run(arguments)), command_lines)
        return [(arguments, wrong) for arguments, wrong in zip(command_lines, verdicts, strict=True) if wrong]


def test_random_overrides_end_in_a_run_or_in_one_line() -> None:
    assert not faults(drawn(QUICK))


@pytest.mark.slow
def test_a_thousand_random_overrides_end_in_a_run_or_in_one_line() -> None:
    assert not faults(drawn(ALL))


def test_what_is_drawn_reaches_every_part_of_the_configuration() -> None:
    words = " ".join(word for arguments in drawn(ALL) for word in arguments)
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
