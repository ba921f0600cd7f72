"""The reduction of records, and tables of rows, pairs and users, against plain arithmetic on the hand-made run."""

import json
import math
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dua_lightning.errors import InputError
from dua_lightning.metrics import average_accuracy, forgetting
from dua_lightning.report import figures, records, reduce, tables
from dua_lightning.report.records import CHUNK, CostRecord, Record
from dua_lightning.report.terminal import Terminal
from tests.reference import statistics_loops
from tests.report.test_tables import made, per_seed, value


@pytest.fixture
def found() -> pd.DataFrame:
    return reduce.reduce([pd.DataFrame(made())]).draws


def test_a_row_has_its_mean_and_an_interval_over_each_that_is_repeated(found: pd.DataFrame) -> None:
    rows = reduce.rows(found).set_index("row")
    axes = ("seeds", "users", "iterations")
    assert list(rows) == [
        name for merit in ("accuracy", "forgetting") for name in (merit, *(f"{merit} CI ({a})" for a in axes))
    ]
    row = rows.loc["MAS-RACL"]
    seeds = [per_seed("racl", seed) for seed in (1, 2, 3)]
    assert row["accuracy"] == pytest.approx(statistics.mean(seeds))
    assert row["accuracy CI (seeds)"] == pytest.approx(statistics_loops.half(seeds), rel=1e-5)
    users = [
        statistics.mean(value("racl", user, i, s, 3, on) for i in (1, 2) for s in (1, 2, 3) for on in (1, 2, 3))
        for user in ("a", "bcd")
    ]
    assert row["accuracy CI (users)"] == pytest.approx(statistics_loops.half(users), rel=1e-4)
    assert math.isnan(rows.loc["Joint", "forgetting"])
    assert math.isnan(rows.loc["Joint", "forgetting CI (seeds)"])


def test_what_there_is_one_of_has_no_column(found: pd.DataFrame) -> None:
    one = found[(found["seed"] == 1) & (found["iteration"] == 1)]
    assert list(reduce.rows(one)) == ["row", "accuracy", "accuracy CI (users)", "forgetting", "forgetting CI (users)"]
    alone = reduce.rows(one[one["user"] == "a"])
    assert list(alone) == ["row", "accuracy", "forgetting"]
    assert list(reduce.differences(one)) == ["first", "second", "difference", "CI (users)", "pairs", "p", "p (Holm)"]


def test_differences_are_paired_and_tested_over_seeds(found: pd.DataFrame) -> None:
    noisy = found.assign(average_accuracy=[a + math.sin(n) for n, a in enumerate(found["average_accuracy"])])
    pairs = reduce.differences(noisy)
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
    assert pair["CI (seeds)"] == pytest.approx(statistics_loops.half(apart), rel=1e-5)
    assert pair["p"] == pytest.approx(statistics_loops.p_value(apart), abs=1e-6)
    assert pair["pairs"] == 12
    assert (pairs["p (Holm)"] >= pairs["p"]).all()
    assert pairs["p (Holm)"].min() == pytest.approx(3 * pairs["p"].min())


def test_only_what_both_rows_have_is_paired(found: pd.DataFrame) -> None:
    part = found[(found["row"] != "MAS-IMM") | (found["seed"] == 2)]
    pairs = reduce.differences(part).set_index(["first", "second"])
    assert pairs.loc[("MAS-RACL", "MAS-IMM"), "pairs"] == 4
    assert pairs.loc[("MAS-RACL", "MAS-IMM"), "difference"] == pytest.approx(2.0)
    apart = found[(found["row"] != "MAS-IMM") | (found["seed"] == 2)]
    apart = apart[(apart["row"] == "MAS-IMM") | (apart["seed"] != 2)]
    assert len(reduce.differences(apart)) == 1


def test_users_and_their_extremes(found: pd.DataFrame) -> None:
    users = reduce.users(found).set_index(["row", "user"])
    expected = statistics.mean(value("imm", "bcd", i, s, 3, on) for i in (1, 2) for s in (1, 2, 3) for on in (1, 2, 3))
    assert users.loc[("MAS-IMM", "bcd"), "accuracy"] == pytest.approx(expected)
    line = reduce.extremes(found).set_index("row").loc["MAS-IMM"]
    assert (line["worst user"], line["best user"]) == ("a", "bcd")
    assert line["best"] == pytest.approx(expected)
    assert line["worst"] < line["median"] < line["best"]
    assert "5 % below" not in line


def test_many_users_have_percentiles(found: pd.DataFrame) -> None:
    one = found[(found["row"] == "Joint") & (found["user"] == "a")]
    many = pd.concat([one.assign(user=f"u{n}", average_accuracy=float(n)) for n in range(101)])
    (line,) = reduce.extremes(many).to_dict("records")
    assert (line["worst user"], line["5 % below"], line["median"], line["95 % below"]) == ("u0", 5.0, 50.0, 95.0)


def crowd(count: int) -> list[Record]:
    """The first user of each row of `made`, `count` times over with other accuracies."""
    one = [record for record in made() if record.user == "a" and record.iteration == 1 and record.seed == 1]
    return [replace(r, user=f"user_{k}", accuracy=r.accuracy * (k + 1) / count) for k in range(count) for r in one]


def test_each_matrix_is_reduced_as_by_itself() -> None:
    found = reduce.reduce([pd.DataFrame(crowd(7))])
    assert len(found.draws) == 3 * 7
    for _, draw in found.draws.iterrows():
        R = np.full((3, 3), np.nan)
        for record in crowd(7):
            if (record.label, record.user) == (draw["label"], draw["user"]):
                R[record.after - 1, record.on - 1] = record.accuracy
        assert draw["average_accuracy"] == pytest.approx(average_accuracy(R))
        assert draw["forgetting"] == pytest.approx(forgetting(R), nan_ok=True)
        assert draw["forgetting_released"] == pytest.approx(2 / 3 * forgetting(R), nan_ok=True)


def test_records_longer_than_a_piece_give_the_same_numbers(tmp_path: Path) -> None:
    many = crowd(2 * CHUNK // 15)
    assert CHUNK < len(many) < 3 * CHUNK
    records.write(many, tmp_path / "records.csv")
    pieces = list(records.chunks(tmp_path / "records.csv"))
    assert [len(piece) <= CHUNK for piece in pieces] == [True] * len(pieces)
    assert len(pieces) > 1
    whole, parted = reduce.reduce([pd.DataFrame(many)]), reduce.reduce(pieces)
    pd.testing.assert_frame_equal(parted.draws, whole.draws)
    for name, R in whole.matrices.items():
        np.testing.assert_allclose(parted.matrices[name], R)
    for numbers in (reduce.rows, reduce.over_seeds, reduce.percentiles):
        pd.testing.assert_frame_equal(numbers(parted.draws), numbers(whole.draws))


def test_a_piece_ends_between_two_matrices_wherever_the_file_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records.write(made(), tmp_path / "records.csv")
    for lines in (1, 2, 5, 7, 1000):
        monkeypatch.setattr(records, "CHUNK", lines)
        pieces = list(records.chunks(tmp_path / "records.csv"))
        assert sum(len(R) for piece in pieces for _, R in records.matrices(piece)) == 3 * 2 * 2 * 3
        assert [Record(**line) for piece in pieces for line in piece.to_dict("records")] == made()


def test_the_same_result_counts_once_and_two_different_ones_are_refused() -> None:
    frame = pd.DataFrame(made())
    once, twice = reduce.reduce([frame]), reduce.reduce([frame, frame])
    pd.testing.assert_frame_equal(twice.draws, once.draws)
    np.testing.assert_array_equal(twice.matrices["MAS-IMM"], once.matrices["MAS-IMM"])
    other = frame.assign(accuracy=frame["accuracy"].where(frame.index != 50, 1.0))
    with pytest.raises(InputError, match=f"two results of {frame['label'][50]}, user {frame['user'][50]}"):
        reduce.reduce([frame, other])


def test_mean_and_spread_are_over_seeds_of_means_over_users(found: pd.DataFrame) -> None:
    row = reduce.over_seeds(found).loc["MAS-RACL"]
    seeds = [per_seed("racl", seed) for seed in (1, 2, 3)]
    assert row["average_accuracy"] == pytest.approx(statistics.mean(seeds))
    assert row["average_accuracy_std"] == pytest.approx(statistics.stdev(seeds))
    lost = [statistics.mean([2 * (1 + s / 5), 1 + s / 5]) for s in (1, 2, 3)]
    assert row["forgetting"] == pytest.approx(statistics.mean(lost))
    assert row["forgetting_std"] == pytest.approx(statistics.stdev(lost))
    users = reduce.over_seeds(found, ("row", "user")).loc["MAS-RACL"]["average_accuracy"]
    assert users["bcd"] - users["a"] == pytest.approx(2 / 7)


def test_a_gain_has_no_spread_where_every_pair_differs_alike(found: pd.DataFrame) -> None:
    (line,) = reduce.gains(found).to_dict("index").items()
    assert line == ("MAS-RACL minus MAS-IMM", {"mean": pytest.approx(2.0), "std": pytest.approx(0.0, abs=1e-9)})
    assert reduce.gains(found[found["row"] != "MAS-IMM"]).empty


def test_rows_of_two_data_sets_are_kept_apart() -> None:
    frame = pd.DataFrame(made())
    both = reduce.reduce([frame, frame.assign(data="numbers")])
    assert both.draws["row"].iloc[0] == "digits / MAS-RACL"
    assert len(both.matrices) == 6
    assert [(name, list(part.matrices)) for name, part in both.benchmarks()] == [
        (name, ["MAS-RACL", "MAS-IMM", "Joint"]) for name in ("digits", "numbers")
    ]


def test_a_row_has_as_many_tasks_as_it_was_run_on() -> None:
    frame = pd.DataFrame(made())
    fewer = frame[(frame["on"] < 3) & (frame["after"] < 3)].assign(data="numbers")
    found = reduce.reduce([pd.concat([frame, fewer])]).matrices
    assert {name: R.shape for name, R in found.items() if "RACL" in name} == {
        "digits / MAS-RACL": (3, 3),
        "numbers / MAS-RACL": (2, 2),
    }
    of_entry = frame[(frame["label"] == "MAS-RACL") & (frame["after"] == 3) & (frame["on"] == 1)]
    assert found["digits / MAS-RACL"][2, 0] == pytest.approx(of_entry["accuracy"].mean())
    assert np.isnan(found["digits / MAS-RACL"][0, 2])


def test_released_records_have_the_released_forgetting() -> None:
    frame = pd.DataFrame(made())
    found = reduce.over_seeds(reduce.reduce([frame, frame.assign(fidelity="released")]).draws)
    paper, released = (found.loc[f"{fidelity} / MAS-RACL"] for fidelity in ("paper", "released"))
    assert released["average_accuracy"] == paper["average_accuracy"]
    assert released["forgetting"] == pytest.approx(paper["forgetting"] * 2 / 3)


def test_the_entries_of_mean_matrices_are_lines() -> None:
    found = reduce.reduce([pd.DataFrame(made())])
    lines = reduce.entries(found)
    assert list(lines) == ["row", "after", "on", "accuracy"]
    assert len(lines) == 6 + 6 + 3
    for row, after, on, accuracy in lines.itertuples(index=False):
        assert accuracy == found.matrices[row][after - 1, on - 1]


def test_many_users_are_more_than_a_hundred() -> None:
    for count, many in ((100, False), (101, True)):
        assert reduce.reduce([pd.DataFrame(crowd(count))]).many == many


def test_adaptation_costs_a_user_the_sum_over_tasks(tmp_path: Path) -> None:
    costs = [
        CostRecord("digits", "mlp", "finetune", "MAS-IMM", f"user_{k}", 1, 1, task, "none", 1, 1, seconds, 0.0)
        for k in range(200)
        for task, seconds in (("a", 0.25), ("b", 0.5))
    ]
    records.write(costs, tmp_path / "costs.csv")
    draws = reduce.reduce([pd.DataFrame(crowd(200))]).draws
    found = reduce.adapting(draws, records.table(tmp_path / "costs.csv", CostRecord))
    assert found.to_dict() == {"MAS-IMM": 0.75}


@pytest.mark.parametrize("peak", [math.nan, 3 * 2**20])
def test_costs_name_the_statistics_and_peak_memory_where_it_was_counted(tmp_path: Path, peak: float) -> None:
    ways = {("adabn", "exact"): 0.5, ("adabn", "batch"): 0.25, ("finetune", "none"): 2.0}
    costs = [
        CostRecord("digits", "mlp", adapt, f"MAS-IMM + {adapt}", "a", 1, 1, "0-1", way, 1000, 2048, seconds, peak)
        for (adapt, way), seconds in ways.items()
    ]
    records.write(costs, tmp_path / "costs.csv")
    found = reduce.cost_medians(records.table(tmp_path / "costs.csv", CostRecord))
    assert dict(zip(zip(found["adaptation"], found["statistics"], strict=True), found["seconds"], strict=True)) == ways
    counted = not math.isnan(peak)
    assert ("peak memory (MiB)" in found) == counted
    console = Terminal(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(tables.costs(records.table(tmp_path / "costs.csv", CostRecord)))
    (line,) = [line for line in console.export_text().splitlines() if "batch" in line]
    assert line.replace(" ", "") == "│adabn│batch│1,000│2.0│0.250│" + "3.0│" * counted


def test_summary_table_and_figure_of_many_users_show_percentiles_and_cost(tmp_path: Path) -> None:
    found, cost = reduce.reduce([pd.DataFrame(crowd(200))]), tables.UserCost(150, 0.0321)
    costs = records.table(tmp_path / "costs.csv", CostRecord)
    tables.write_summary(found, costs, cost, tmp_path / "summary.json")
    summary = json.loads((tmp_path / "summary.json").read_text(), parse_constant=pytest.fail)
    assert summary["cost_per_user"] == {"draws": 150, "seconds": 0.0321}
    assert summary["Joint"]["forgetting"] is None
    assert "users" not in summary["Joint"]
    console = Terminal(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(tables.table(found, "made", costs, cost))
    text = console.export_text()
    for name in ("MAS-RACL", "MAS-IMM", "Joint"):
        accuracies = found.draws[found.draws["row"] == name]["average_accuracy"]
        expected = np.percentile(accuracies, (5, 25, 50, 75, 95))
        assert list(summary[name]["percentiles"].values()) == pytest.approx(expected)
        assert list(summary[name]["percentiles"]) == ["p5", "p25", "p50", "p75", "p95"]
        assert summary[name]["draws"] == 200
        (line,) = [line for line in text.splitlines() if line.startswith(f"│ {name} ")]
        assert all(f"{value:.2f}" in line for value in expected)
    assert "32.1 ms of a worker" in text
    first, _ = figures.draw_all(found, tmp_path)
    assert (first.name, first.read_bytes()[:4]) == ("spread.png", b"\x89PNG")


def test_a_user_may_be_called_by_bytes_that_are_no_utf8() -> None:
    lines = [replace(record, user=f"{record.user}\udce9") for record in made()]
    found = reduce.reduce([pd.DataFrame(lines), pd.DataFrame(lines)]).draws
    assert found["user"].unique().tolist() == ["a\udce9", "bcd\udce9"]
    assert len(found) == 36
