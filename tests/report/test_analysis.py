"""Tables of rows, pairs and users, against plain arithmetic on the hand-made run."""

import math
import statistics

import pandas as pd
import pytest

from dua_lightning.report import analysis
from dua_lightning.report.tables import merits
from tests.reference import statistics_loops
from tests.report.test_tables import made, per_seed, value


@pytest.fixture
def found() -> pd.DataFrame:
    return merits(pd.DataFrame(made()))


def test_a_row_has_its_mean_and_an_interval_over_each_that_is_repeated(found: pd.DataFrame) -> None:
    rows = analysis.rows(found).set_index("row")
    axes = ("seeds", "users", "iterations")
    assert list(rows) == [
        name for merit in ("accuracy", "forgetting") for name in (merit, *(f"{merit} ± {a}" for a in axes))
    ]
    row = rows.loc["MAS-RACL"]
    seeds = [per_seed("racl", seed) for seed in (1, 2, 3)]
    assert row["accuracy"] == pytest.approx(statistics.mean(seeds))
    assert row["accuracy ± seeds"] == pytest.approx(statistics_loops.half(seeds), rel=1e-5)
    users = [
        statistics.mean(value("racl", user, i, s, 3, on) for i in (1, 2) for s in (1, 2, 3) for on in (1, 2, 3))
        for user in ("a", "bcd")
    ]
    assert row["accuracy ± users"] == pytest.approx(statistics_loops.half(users), rel=1e-4)
    assert math.isnan(rows.loc["Joint", "forgetting"])
    assert math.isnan(rows.loc["Joint", "forgetting ± seeds"])


def test_what_there_is_one_of_has_no_column(found: pd.DataFrame) -> None:
    one = found[(found["seed"] == 1) & (found["iteration"] == 1)]
    assert list(analysis.rows(one)) == ["row", "accuracy", "accuracy ± users", "forgetting", "forgetting ± users"]
    alone = analysis.rows(one[one["user"] == "a"])
    assert list(alone) == ["row", "accuracy", "forgetting"]
    assert list(analysis.differences(one)) == ["first", "second", "difference", "± users", "pairs", "p", "p (Holm)"]


def test_differences_are_paired_and_tested_over_seeds(found: pd.DataFrame) -> None:
    noisy = found.assign(average_accuracy=[a + math.sin(n) for n, a in enumerate(found["average_accuracy"])])
    pairs = analysis.differences(noisy)
    assert list(zip(pairs["first"], pairs["second"], strict=True)) == [
        ("MAS-RACL", "MAS-IMM"),
        ("MAS-RACL", "Joint"),
        ("MAS-IMM", "Joint"),
    ]
    pair = pairs.iloc[1]
    wide = noisy.set_index(["row", "seed", "user", "iteration"])["average_accuracy"]
    apart = [
        statistics.mean(wide["MAS-RACL", s, u, i] - wide["Joint", s, u, i] for u in ("a", "bcd") for i in (1, 2))
        for s in (1, 2, 3)
    ]
    assert pair["difference"] == pytest.approx(statistics.mean(apart))
    assert pair["± seeds"] == pytest.approx(statistics_loops.half(apart), rel=1e-5)
    assert pair["p"] == pytest.approx(statistics_loops.p_value(apart), abs=1e-6)
    assert pair["pairs"] == 12
    assert (pairs["p (Holm)"] >= pairs["p"]).all()
    assert pairs["p (Holm)"].min() == pytest.approx(3 * pairs["p"].min())


def test_only_what_both_rows_have_is_paired(found: pd.DataFrame) -> None:
    part = found[(found["row"] != "MAS-IMM") | (found["seed"] == 2)]
    pairs = analysis.differences(part).set_index(["first", "second"])
    assert pairs.loc[("MAS-RACL", "MAS-IMM"), "pairs"] == 4
    assert pairs.loc[("MAS-RACL", "MAS-IMM"), "difference"] == pytest.approx(2.0)
    apart = found[(found["row"] != "MAS-IMM") | (found["seed"] == 2)]
    apart = apart[(apart["row"] == "MAS-IMM") | (apart["seed"] != 2)]
    assert len(analysis.differences(apart)) == 1


def test_users_and_their_extremes(found: pd.DataFrame) -> None:
    users = analysis.users(found).set_index(["row", "user"])
    expected = statistics.mean(value("imm", "bcd", i, s, 3, on) for i in (1, 2) for s in (1, 2, 3) for on in (1, 2, 3))
    assert users.loc[("MAS-IMM", "bcd"), "accuracy"] == pytest.approx(expected)
    line = analysis.extremes(found).set_index("row").loc["MAS-IMM"]
    assert (line["worst user"], line["best user"]) == ("a", "bcd")
    assert line["best"] == pytest.approx(expected)
    assert line["worst"] < line["median"] < line["best"]
    assert "5 % below" not in line


def test_many_users_have_percentiles(found: pd.DataFrame) -> None:
    one = found[(found["row"] == "Joint") & (found["user"] == "a")]
    many = pd.concat([one.assign(user=f"u{n}", average_accuracy=float(n)) for n in range(101)])
    (line,) = analysis.extremes(many).to_dict("records")
    assert (line["worst user"], line["5 % below"], line["median"], line["95 % below"]) == ("u0", 5.0, 50.0, 95.0)
