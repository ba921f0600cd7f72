"""The hot paths keep their distance from their lower bounds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
GROWTH = 4 / 3
"""The largest growth of a ratio to the floor; both sides run in one process, so that other work slows both."""


@pytest.mark.slow
def test_no_ratio_to_a_floor_has_grown_by_more_than_a_third(tmp_path: Path) -> None:
    command = [sys.executable, str(TOP / "benchmarks" / "hot_paths.py"), "--runs", "7", "--out", str(tmp_path)]
    subprocess.run(command, check=True, cwd=TOP)
    expected = json.loads((TOP / "benchmarks" / "expected.json").read_text())["paths"]
    measured = json.loads((tmp_path / "hot_paths.json").read_text())["paths"]
    assert measured.keys() == expected.keys()
    # The best of the pairs: what else runs on a machine makes a pair worse, never better.
    grown = {
        name: (min(result["ratios"]), expected[name]["ratio"])
        for name, result in measured.items()
        if min(result["ratios"]) > GROWTH * expected[name]["ratio"]
    }
    assert not grown
