"""`dua choose`: the server's choice on the terminal and as CSV, and runs on which it would cheat."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from tests.helpers.cli import Done, refused, run
from tests.report import folders

Dua = Callable[..., Done]
SIMULATED = {"simulate": {"name": "both"}}


@pytest.fixture
def dua(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Dua:
    monkeypatch.setenv("COLUMNS", "80")
    return lambda *arguments: run("choose", *map(str, arguments), capfd=capfd, monkeypatch=monkeypatch)


def sweep(folder: Path, gains: dict[float, float], settings: dict[str, object]) -> Path:
    """MAS-RACL with several values of a setting of its adaptation; the rows differ in nothing else."""
    jobs = [
        (
            [replace(r, accuracy=r.accuracy / 2 + gain) for r in folders.of("racl")],
            {**settings, "method": {"name": "racl"}, "adapt": {"name": "none", "lr": lr}},
            (),
        )
        for lr, gain in gains.items()
    ]
    return folders.sweep(folder, jobs)


def test_the_choice_is_printed_and_written(dua: Dua, tmp_path: Path) -> None:
    simulated = sweep(tmp_path / "simulated", {0.1: 3.0, 0.2: 5.0}, SIMULATED)
    scored = sweep(tmp_path / "scored", {0.1: 4.0, 0.2: 2.0}, {})
    done = dua(simulated, scored)
    assert (done.status, done.err) == (0, "")
    found = pd.read_csv(scored / "choice.csv").set_index("selection")
    assert found["row"].tolist() == ["MAS-RACL, lr=0.2", "MAS-RACL, lr=0.1"]
    assert found.loc["server", "gap"] == pytest.approx(2.0)
    assert "+2.0" in done.out
    assert max(map(len, done.out.splitlines()[:-1])) <= 80
    for arguments, words in (
        ((scored, simulated), "simulate=none"),
        ((simulated, simulated), "simulate=both"),
        ((simulated,), "required"),
        ((folders.run(tmp_path / "alone", folders.of("joint"), SIMULATED), scored), "nothing to choose from"),
    ):
        done = dua(*arguments)
        assert refused(done), done.err
        assert words in done.err
