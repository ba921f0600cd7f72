"""The analysis of the open problem, on accuracies that are known."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from dua_lightning.report.records import Record
from dua_lightning.report.stream import Stream
from tests.experiments.test_scenes import EXPERIMENTS, analyse

OWN = "mean-IMM, calibrated server statistics + early"
ROWS = {
    "mean-IMM, server statistics": (30.0, 30.0),
    "mean-IMM + AdaBN": (40.0, 42.0),
    "mean-IMM + AdaBN-S": (41.0, 43.0),
    "mean-IMM + AdaBN-S by Adam (0.001)": (44.0, 46.0),
    OWN: (43.0, 43.0),
}
"""The accuracies of two users."""


def written(run: Path, rows: Mapping[str, tuple[float, float]]) -> None:
    """The records of two users."""
    with Stream(run / "records.csv") as stream:
        for label, accuracies in rows.items():
            adapt = label.rpartition(" ")[2]
            common = {"data": "transprior", "model": "mobilenet_v2", "method": "mean_imm", "importance": "none"}
            common |= {"prior": "none", "statistics": "server", "uses": "images", "fidelity": "paper", "label": label}
            whose = [{"user": f"user_{k}", "iteration": 1, "seed": 1} for k in range(len(accuracies))]
            stream.write(
                [
                    Record(**common, **who, adapt=adapt, after=1, on=1, accuracy=value)
                    for who, value in zip(whose, accuracies, strict=True)
                ]
            )


def test_gains_are_paired_and_the_step_is_that_to_the_best_row_with_labels(tmp_path: Path) -> None:
    written(tmp_path, ROWS)
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
    assert found.loc["AdaBN", "AdaBN-S lose a point"] == 0
    study.figure(wide, bars, study.SERVER, tmp_path / "bars.png")
    assert (tmp_path / "bars.png").stat().st_size > 1000


def test_maps_are_over_the_servers_statistics_and_in_the_order_of_the_numbers(tmp_path: Path) -> None:
    few = "mean-IMM, calibrated server statistics + BBSE of {} images"
    rows = {"mean-IMM, server statistics": (30.0, 20.0), few.format(20): (34.0, 24.0), few.format(8): (28.0, 20.5)}
    for name, data in (("a", "catprior"), ("b", "population")):
        written(tmp_path / name, rows)
        text = f"trainer: {{accelerator: cpu}}\ndata: {{name: {data}, concentration: 0.1}}\n"
        (tmp_path / name / "config.yaml").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXPERIMENTS / "open_problem")
        study = analyse("open_problem", "maps")
    found = study.of_images("catprior", [tmp_path / "a"])
    assert found["images"].tolist() == [8, 20]
    assert found["row"].tolist() == ["BBSE", "BBSE"]
    assert found["gain"].tolist() == [-0.75, 4]
    assert found["lose a point"].tolist() == [50, 0]
    skew = study.of_skew(0.1, [tmp_path / "b"])
    assert skew["gain"].tolist() == [4, -0.75]
    assert set(skew["concentration"]) == {0.1}
    study.draw_images(found, tmp_path / "images.png")
    study.draw_skew(skew, tmp_path / "skew.png")
    assert all((tmp_path / f"{name}.png").stat().st_size > 1000 for name in ("images", "skew"))
