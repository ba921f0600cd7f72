"""The analyses of the study on real scenes and of the released AdaBN, on accuracies that are known."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

from dua_lightning.report.records import Record
from dua_lightning.report.stream import Stream

ROWS = {
    "MAS-IMM": 20,
    "MAS-RACL": 21,
    "MAS-IMM, server statistics": 30,
    "MAS-IMM + AdaBN": 42,
    "MAS-IMM + AdaBN (released)": 19,
}
"""The accuracy of each row, before a user's and a seed's own part."""


EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def analyse(study: str, script: str = "analyse") -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{script}_{study}", EXPERIMENTS / study / f"{script}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Three users and two seeds; AdaBN gains a point more for each next user."""
    with Stream(tmp_path / "records.csv") as written:
        for label, base in ROWS.items():
            adapt = {"MAS-IMM + AdaBN": "adabn", "MAS-IMM + AdaBN (released)": "adabn_released"}.get(label, "none")
            for seed in (1, 2):
                for user in range(3):
                    accuracy = base + 2.0 * seed + 5.0 * user + (user - 1.0) * (adapt == "adabn")
                    common = {"data": "transprior", "model": "mobilenet_v2", "method": "imm", "importance": "mas"}
                    whose = {"user": f"user_{user}", "iteration": 1, "seed": seed, "fidelity": "paper"}
                    whose |= {"prior": "server", "statistics": "last", "uses": "nothing"}
                    written.write(
                        [Record(**common, **whose, adapt=adapt, label=label, after=1, on=1, accuracy=accuracy)]
                    )
    return tmp_path


def test_rows_stand_beside_what_was_published_and_users_have_their_gains(run: Path) -> None:
    analyse("scenes").main(run, run)
    users = pd.read_csv(run / "transprior_users.csv")
    assert dict(zip(users["user"], users["gain"], strict=True)) == {"user_0": 11, "user_1": 12, "user_2": 13}
    table = pd.read_csv(run / "transprior_table.csv").set_index("row")
    assert table.loc["MAS-IMM", "published_vgg11_bn"] == 29.36
    assert table.loc["MAS-IMM", "published_vgg11"] == 53.49
    assert table.loc["MAS-IMM + AdaBN", "published_vgg11_bn"] == 29.15


def test_both_kinds_of_adabn_are_measured_from_none(run: Path) -> None:
    analyse("adabn_artifact").main(run)
    found = pd.read_csv(run / "adabn_artifact.csv").set_index("comparison")
    assert set(found["method"]) == {"MAS-IMM"}
    means = {"AdaBN minus none": 22.0, "released minus none": -1.0, "AdaBN minus released": 23.0}
    assert found["mean"].to_dict() == means
    # The t interval of 21, 22 and 23.
    assert found.loc["AdaBN minus none", "high"] == pytest.approx(22 + 4.303 / 3**0.5, abs=1e-3)
    assert (run / "adabn_artifact.png").exists()
