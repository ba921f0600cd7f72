"""The stages of a run: bars in the width of a terminal, and lines elsewhere, by a clock that is set by hand."""

import re
import time
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from dua_lightning import progress
from dua_lightning.progress import Lines, Stage, shown, stage
from tests.helpers.cli import TINY, run


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of everything here."""
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def test_silence_is_never_longer_than_20_seconds_in_any_stage(clock: Clock) -> None:
    """A look each second, as the thread takes; the stage's steps take 7 seconds, or never come."""
    spoken: list[float] = []
    lines = Lines(lambda text: spoken.append(clock()), clock)
    with stage("loading"), stage("users", 40) as advance:
        for second in range(300):
            clock.now += 1
            if second % 7 == 0:
                advance("user ann")
            lines.look()
    gaps = [b - a for a, b in zip([1000.0, *spoken], [*spoken, clock.now], strict=True)]
    assert max(gaps) <= 20
    assert len(spoken) >= 15


def test_a_line_says_what_how_many_how_fast_and_how_long_still(clock: Clock) -> None:
    said: list[str] = []
    lines = Lines(said.append, clock)
    with stage("seed 1: users", 40) as advance:
        clock.now += 16
        lines.look()
        for _ in range(10):
            clock.now += 3
            advance("user ann")
        lines.look()
    assert said == ["seed 1: users: 0 of 40, 16 s so far", "seed 1: users: 10 of 40, 4.6 s each, 2 min left"]


def test_what_was_written_otherwise_breaks_the_silence_too(clock: Clock) -> None:
    said: list[str] = []
    lines = Lines(said.append, clock)
    with stage("loading"):
        clock.now += 6
        lines.spoke()
        clock.now += 6
        lines.look()
        assert not said
        clock.now += 6
        lines.look()
        assert said == ["loading, 18 s so far"]
    clock.now += 100
    lines.look()
    assert len(said) == 1, "without a stage there is nothing to say"


def test_the_innermost_stage_is_the_one_that_is_told(clock: Clock) -> None:
    said: list[str] = []
    lines = Lines(said.append, clock)
    with stage("users", 3), stage("task a", 10, first=4) as advance:
        clock.now += 20
        advance()
        lines.look()
    assert said == ["task a: 5 of 10, 20 s each, 2 min left"], "steps of an earlier run say nothing of the rate"


def test_megabytes_are_told_as_such(clock: Clock) -> None:
    download = Stage("downloading x", 2360, " MB")
    clock.now += 10
    download.advance(steps=59)
    assert download.line(clock()) == "downloading x: 59 of 2360 MB, 5.9 MB/s, 6 min left"
    unknown = Stage("downloading x", None, " MB")
    unknown.advance(steps=59)
    assert unknown.line(clock()).startswith("downloading x: 59 MB")


@pytest.mark.parametrize("width", [80, 60, 200])
def test_bars_fit_the_terminal_with_rate_and_time_left(clock: Clock, width: int) -> None:
    file = StringIO()
    console = Console(file=file, force_terminal=True, width=width, soft_wrap=True, legacy_windows=False)
    with (
        shown(console),
        stage("seed 1: users' draws", 300) as advance,
        stage("seed 1: L2-transfer experts, task a very long name of a supercategory of rooms", 10) as epoch,
    ):
        clock.now += 30
        advance("user somebody with a long name indeed")
        epoch("validation 91.3 %")
        console.print(progress._bars())
    shown_lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue()).replace("\r", "\n").splitlines()
    assert max(map(len, shown_lines)) <= width
    bars = [line for line in shown_lines if "1/300" in line]
    assert bars
    assert all("30 s each" in line and "150 min left" not in line and "2 h 30 min left" in line for line in bars)
    assert any("1/10" in line and "4 min left" in line for line in shown_lines)


def test_without_a_terminal_lines_come_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SILENCE", 0.02)
    monkeypatch.setattr(progress, "TICK", 0.01)
    said: list[str] = []
    with shown(Console(file=StringIO()), said.append), stage("loading"):
        deadline = time.monotonic() + 20
        while len(said) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert len(said) >= 3
    assert all(text.startswith("loading, ") for text in said)


def test_silence_counts_from_one_display_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading the program and reading the data are shown one after the other, and may each take less than `SILENCE`."""
    before = time.monotonic() - progress.SILENCE / 2
    monkeypatch.setattr(progress, "_written", before)
    for _ in range(2):
        with shown(Console(file=StringIO())) as lines:
            assert lines.last == before
    with shown(Console(file=StringIO())) as lines:
        lines.spoke()
    with shown(Console(file=StringIO())) as after:
        assert after.last == lines.last > before


def test_a_stage_ends_with_its_block_though_it_fails() -> None:
    with pytest.raises(ValueError, match="x"), stage("loading"):
        raise ValueError("x")
    assert not progress._open


def test_the_time_of_an_inner_stage_is_not_that_of_the_steps_around_it(clock: Clock) -> None:
    said: list[str] = []
    lines = Lines(said.append, clock)
    with stage("users", 10) as advance:
        with stage("training"):
            clock.now += 600
        for _ in range(2):
            clock.now += 8
            advance()
        lines.look()
    assert said == ["users: 2 of 10, 8.0 s each, 1 min left"]


def test_a_run_and_a_report_are_stages_from_end_to_end(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts: list[str] = []

    class Noted(Stage):
        def __post_init__(self) -> None:
            super().__post_init__()
            texts.append(self.text)

    monkeypatch.setattr(progress, "Stage", Noted)
    for arguments, first, last in (
        ((*TINY, "threads=1", f"paths.output_dir={tmp_path}"), "loading the program", "closing the logger"),
        (("report", str(tmp_path)), "reading the runs", "writing the report"),
    ):
        assert run(*arguments, capfd=capfd, monkeypatch=monkeypatch).status == 0
        assert (texts[0], texts[-1]) == (first, last)
        texts.clear()
