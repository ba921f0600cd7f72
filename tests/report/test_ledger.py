"""The ledger, against plain arithmetic on rows made by hand: what is compared with what, and what is said of priors."""

import math
import statistics
from pathlib import Path

import pandas as pd
import pytest

from dua_lightning.report import figures, ledger
from tests.reference import statistics_loops
from tests.report.test_verdict import NOISE, draws

STEPS = {
    "Task Experts": 66.0,
    "MAS-IMM + Tent": 60.0,
    "MAS-IMM, server statistics + Tent": 59.0,
    "MAS-IMM + Tent, lr=0.1": 58.0,
    "MAS-IMM + TENT (mean statistics, lr 0.1, epochs 1)": 58.5,
    "MAS-IMM + AdaBN-S": 63.0,
    "MAS-IMM + AdaBN": 61.0,
    "MAS-IMM, server statistics": 55.0,
    "MAS-IMM": 40.0,
    "Joint": 57.0,
    "Task Experts + AdaBN": 65.0,
    "MAS-IMM + AdaBN (released)": 30.0,
    "MAS-IMM, mean merge + AdaBN": 35.0,
}
"""The means of rows, in no useful order; Joint is the server's best."""
PRIORS = {
    "MAS-IMM": 50.0,
    "MAS-RACL + AdaBN": 61.0,
    "MAS-IMM + AdaBN": 60.5,
    "MAS-RACL, oracle's priors + AdaBN": 64.0,
    "MAS-RACL, another user's priors + AdaBN": 60.7,
    "noise-MAS-RACL + AdaBN": 60.2,
    "mean-IMM + AdaBN": 60.0,
    "mean-IMM, TIES merge + AdaBN": 59.0,
}


def by_row(frame: pd.DataFrame) -> dict[str, dict[str, object]]:
    return {line["row"]: line for line in frame.to_dict("records")}


def test_steps_come_in_their_order_and_each_is_measured_from_the_one_before() -> None:
    found = ledger.ledger(draws(STEPS))
    assert set(found["ledger"]) == {"MAS-IMM"}, "a merge with one row has no ledger"
    assert found["over"].to_dict() == dict(
        enumerate(
            [
                "",
                "MAS-IMM",
                "MAS-IMM, server statistics",
                *5 * ["MAS-IMM + AdaBN"],
                "MAS-IMM + AdaBN-S",
                "Task Experts + AdaBN",
            ]
        )
    )
    rows = by_row(found)
    assert list(rows) == [
        "MAS-IMM",
        "MAS-IMM, server statistics",
        "MAS-IMM + AdaBN",
        "MAS-IMM + Tent",
        "MAS-IMM, server statistics + Tent",
        "MAS-IMM + Tent, lr=0.1",
        "MAS-IMM + TENT (mean statistics, lr 0.1, epochs 1)",
        "MAS-IMM + AdaBN-S",
        "Task Experts + AdaBN",
        "Task Experts",
    ]
    assert [rows[row]["line"] for row in list(rows)[3:6]] == ["Tent", "server statistics + Tent", "Tent, lr=0.1"]
    for row, line in rows.items():
        assert line["gain"] == pytest.approx(STEPS[row] - STEPS["Joint"])
        if line["over"]:
            assert line["step"] == pytest.approx(STEPS[row] - STEPS[str(line["over"])])


def test_a_lines_numbers_are_over_users_and_seeds() -> None:
    gains = [4.0, -0.5, -3.0, 1.0, 0.0, 2.0, 6.0, 3.0, 9.0, 5.0, -2.0, -6.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    means = {"MAS-IMM, server statistics": 30.0, "MAS-IMM + AdaBN": 30.0}
    frame = draws(means, {"MAS-IMM + AdaBN": gains}, users=20, seeds=2, iterations=2)
    later = (frame["seed"] == 2) & (frame["adapt"] == "adabn")
    found = by_row(ledger.ledger(frame.assign(average_accuracy=frame["average_accuracy"] + 0.5 * later)))
    line = found["MAS-IMM + AdaBN"]
    own = [gain + 0.25 for gain in gains]
    assert line["users"] == 20
    assert line["gain"] == pytest.approx(statistics.mean(own))
    assert line["gain CI"] == pytest.approx(statistics_loops.half(own), rel=1e-4)
    assert line["gain std (seeds)"] == pytest.approx(0.5 / math.sqrt(2))
    assert line["lose"] == pytest.approx(100 * sum(gain < 0 for gain in own) / 20)
    assert line["lose a point"] == pytest.approx(100 * sum(gain < -1 for gain in own) / 20)
    assert line["worst tenth"] == pytest.approx(statistics.mean(sorted(own)[:2]))
    assert math.isnan(found["MAS-IMM, server statistics"]["gain"]), "the baseline gains nothing over itself"


def test_priors_come_from_uniform_to_the_users_own_in_one_setting() -> None:
    found = ledger.ledger(draws(PRIORS))
    lines = found[found["ledger"] == "priors by mas + AdaBN"]
    assert list(zip(lines["line"], lines["over"], strict=True)) == [
        ("uniform", ""),
        ("noise", "mean-IMM + AdaBN"),
        ("another user's", "mean-IMM + AdaBN"),
        ("the server's", "mean-IMM + AdaBN"),
        ("the user's", "MAS-IMM + AdaBN"),
        ("of the scored images", "MAS-RACL + AdaBN"),
    ]


@pytest.mark.parametrize(
    ("gain", "noise", "text"),
    [
        (3.0, NOISE, "Yes: MAS-RACL + AdaBN minus MAS-RACL, another user's priors + AdaBN, the best of 4 other priors"),
        (0.0, [0.1, -0.1, 0.1, -0.1], "Hardly: "),
        (-3.0, NOISE, "No: "),
        (0.5, [9.0, -9.0, 4.0, -4.0], "Not enough to tell: "),
    ],
)
def test_a_personal_prior_is_measured_from_the_best_other_one(gain: float, noise: list[float], text: str) -> None:
    frame = draws({**PRIORS, "MAS-RACL + AdaBN": 60.7 + gain}, {"MAS-RACL + AdaBN": noise})
    answer = ledger.prior(frame)
    assert answer is not None
    assert answer.text.startswith(text)
    width = 2 * statistics_loops.half(noise)
    assert f"{width:.2f} points wide, {'narrower' if width < 0.5 else 'not narrower'} than half a point" in answer.text


def test_there_is_no_ledger_without_a_row_that_does_without_users_and_two_rows_to_compare() -> None:
    assert ledger.ledger(draws({"MAS-IMM + AdaBN": 50.0, "MAS-RACL + AdaBN": 51.0})).empty
    assert ledger.ledger(draws({"MAS-IMM": 50.0, "Joint": 51.0})).empty
    assert ledger.prior(draws({"MAS-IMM": 50.0, "Joint": 51.0})) is None


def test_the_figure_has_each_line_and_says_what_gains_most(tmp_path: Path) -> None:
    frame = draws(STEPS)
    path = figures.ledger(ledger.ledger(frame), ledger.gains(frame), tmp_path / "ledger.svg")
    text = path.read_text()
    assert "Task Experts is +9.0 points from Joint" in text
    assert "<!-- last expert's statistics, 44.5 % -->" in text
