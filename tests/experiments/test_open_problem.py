"""The analysis of the open problem, on accuracies that are known."""

from pathlib import Path

import pytest

from dua_lightning.report.records import Record
from dua_lightning.report.stream import Stream
from tests.experiments.test_scenes import analyse

OWN = "mean-IMM, calibrated server statistics + early"
ROWS = {
    "mean-IMM, server statistics": (30.0, 30.0),
    "mean-IMM + AdaBN": (40.0, 42.0),
    "mean-IMM + AdaBN-S": (41.0, 43.0),
    "mean-IMM + AdaBN-S by Adam (0.001)": (44.0, 46.0),
    OWN: (43.0, 43.0),
}
"""The accuracies of two users."""


def test_gains_are_paired_and_the_step_is_that_to_the_best_row_with_labels(tmp_path: Path) -> None:
    with Stream(tmp_path / "records.csv") as written:
        for label, accuracies in ROWS.items():
            adapt = label.rpartition(" ")[2]
            common = {"data": "transprior", "model": "mobilenet_v2", "method": "mean_imm", "importance": "none"}
            common |= {"prior": "none", "statistics": "server", "uses": "images", "fidelity": "paper", "label": label}
            whose = [{"user": f"user_{k}", "iteration": 1, "seed": 1} for k in range(len(accuracies))]
            written.write(
                [
                    Record(**common, **who, adapt=adapt, after=1, on=1, accuracy=value)
                    for who, value in zip(whose, accuracies, strict=True)
                ]
            )
    (tmp_path / "config.yaml").write_text("trainer: {accelerator: cpu}\n")
    study = analyse("open_problem")
    wide = study.accuracies([tmp_path])
    against = [study.SERVER, study.ADABN, study.ADABN_S]
    bars = study.bars(wide, against)
    found = bars.set_index("row")
    own = found.loc["early"]
    assert (own["accuracy"], own["the server's statistics"], own["AdaBN"], own["AdaBN-S"]) == (43, 13, 2, 1)
    assert (own["AdaBN better"], own["AdaBN-S better"], own["users"]) == (2, 1, 2)
    # Gains of 3 and 1 points over AdaBN: half the t interval of two numbers is 12.7 standard errors.
    assert own["AdaBN CI"] == pytest.approx(12.706, abs=1e-3)
    assert own["of the step to labels"] == pytest.approx(50)
    assert found.loc["mean-IMM, server statistics", "AdaBN lose a point"] == 100
    study.figure(wide, bars, study.SERVER, tmp_path / "bars.png")
    assert (tmp_path / "bars.png").stat().st_size > 1000
