"""The spread over many users, against numpy on the same numbers."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from dua_lightning.report import records, spread, tables
from dua_lightning.report.records import CostRecord, Record
from tests.report.test_tables import made


def crowd(count: int) -> list[Record]:
    """The first user of each row of `made`, `count` times over with other accuracies."""
    one = [record for record in made() if record.user == "a" and record.iteration == 1 and record.seed == 1]
    return [replace(r, user=f"user_{k}", accuracy=r.accuracy * (k + 1) / count) for k in range(count) for r in one]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    records.write(crowd(200), tmp_path / "records.csv")
    return tmp_path


def test_many_users_are_more_than_a_hundred(tmp_path: Path) -> None:
    for count, many in ((100, False), (101, True)):
        records.write(crowd(count), tmp_path / "records.csv")
        assert spread.many(tmp_path / "records.csv") == many


def test_the_numbers_are_those_of_the_whole_table(folder: Path) -> None:
    merits = tables.merits(records.read(folder / "records.csv"))
    found = spread.read(folder)
    assert list(found) == ["MAS-RACL", "MAS-IMM", "Joint"]
    for name, row in found.items():
        of_row = merits[merits["row"] == name]
        assert list(row.accuracy) == pytest.approx(of_row["average_accuracy"].to_list())
        assert list(row.forgetting) == pytest.approx(of_row["forgetting"].to_list(), nan_ok=True)
        expected = np.percentile(of_row["average_accuracy"], (5, 25, 50, 75, 95))
        assert list(row.percentiles().values()) == pytest.approx(expected)
        assert list(row.percentiles()) == ["p5", "p25", "p50", "p75", "p95"]


def test_rows_of_several_networks_are_told_apart_as_in_the_table_of_few_users(folder: Path) -> None:
    both = [replace(record, model=model) for model in ("mlp", "vgg11") for record in crowd(200)]
    records.write(both, folder / "records.csv")
    merits = tables.merits(records.read(folder / "records.csv"))
    found = spread.read(folder)
    assert list(found) == list(merits["row"].unique())
    assert [len(row.accuracy) for row in found.values()] == [200] * 6


def test_released_records_have_the_released_forgetting(folder: Path) -> None:
    paper = spread.read(folder)["MAS-RACL"].forgetting
    records.write([replace(record, fidelity="released") for record in crowd(200)], folder / "records.csv")
    released = spread.read(folder)["MAS-RACL"].forgetting
    assert list(released) == pytest.approx([2 / 3 * value for value in paper])


def test_adaptation_costs_a_user_the_sum_over_tasks(folder: Path) -> None:
    costs = [
        CostRecord("digits", "mlp", "finetune", "MAS-IMM", f"user_{k}", 1, 1, task, 1, 1, seconds, 0.0)
        for k in range(200)
        for task, seconds in (("a", 0.25), ("b", 0.5))
    ]
    records.write(costs, folder / "costs.csv")
    found = spread.read(folder)
    assert list(found["MAS-IMM"].adapting) == [0.75] * 200
    assert not found["Joint"].adapting


def test_summary_table_and_figure_show_percentiles_and_cost(folder: Path) -> None:
    rows, cost = spread.read(folder), spread.Cost(150, 0.0321)
    spread.write_summary(rows, cost, folder / "summary.json")
    summary = json.loads((folder / "summary.json").read_text(), parse_constant=pytest.fail)
    assert summary["cost_per_user"] == {"draws": 150, "seconds": 0.0321}
    assert summary["Joint"]["forgetting"] is None
    assert summary["MAS-RACL"]["percentiles"] == rows["MAS-RACL"].percentiles()
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(spread.table(rows, cost, "made"))
    text = console.export_text()
    for name, row in rows.items():
        (line,) = [line for line in text.splitlines() if line.startswith(f"│ {name} ")]
        assert all(f"{value:.2f}" in line for value in row.percentiles().values())
    assert "32.1 ms of a worker" in text
    assert spread.draw(rows, folder / "spread.png").read_bytes()[:4] == b"\x89PNG"
