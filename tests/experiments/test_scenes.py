"""The analysis of the study on real scenes, on accuracies that are known."""

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


@pytest.fixture(scope="module")
def analyse() -> ModuleType:
    path = Path(__file__).parents[2] / "experiments" / "scenes" / "analyse.py"
    spec = importlib.util.spec_from_file_location("analyse_scenes", path)
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


def test_the_ledger_gives_each_steps_gain_over_the_one_before(analyse: ModuleType, run: Path) -> None:
    analyse.main(run, run)
    found = pd.read_csv(run / "transprior_ledger.csv").query("merge == 'MAS-IMM'")
    assert found["accuracy"].tolist() == [28.0, 38.0, 50.0]
    assert found["gain_mean"].tolist()[1:] == [10.0, 12.0]
    # The t interval of 11, 12 and 13.
    assert found["gain_high"].tolist()[2] == pytest.approx(12 + 4.303 / 3**0.5, abs=1e-3)
    assert found["users_better"].tolist()[1:] == [3, 3]
    own = pd.read_csv(run / "transprior_priors.csv")
    assert dict(zip(own["row"], own["mean"], strict=True)) == {"MAS-RACL": 1.0}
    users = pd.read_csv(run / "transprior_users.csv")
    assert dict(zip(users["user"], users["gain"], strict=True)) == {"user_0": 11, "user_1": 12, "user_2": 13}


def test_both_kinds_of_adabn_stand_beside_each_other_and_beside_what_was_published(
    analyse: ModuleType, run: Path
) -> None:
    analyse.main(run, run)
    found = pd.read_csv(run / "transprior_artifact.csv").set_index("kind")["mean"]
    assert found.to_dict() == {"AdaBN": 22.0, "AdaBN (released)": -1.0}
    table = pd.read_csv(run / "transprior_table.csv").set_index("row")
    assert table.loc["MAS-IMM", "published_vgg11_bn"] == 29.36
    assert table.loc["MAS-IMM", "published_vgg11"] == 53.49
    assert table.loc["MAS-IMM + AdaBN", "published_vgg11_bn"] == 29.15
    assert {path.name for path in run.glob("*.png")} == {"transprior_ledger.png", "transprior_artifact.png"}
