"""Records, the table and its figures of merit, against plain arithmetic on a hand-made run."""

import json
import statistics
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from dua_lightning.errors import InputError
from dua_lightning.report import figures, records, tables
from dua_lightning.report.records import COLUMNS, Record


def value(method: str, user: str, iteration: int, seed: int, after: int, on: int) -> float:
    """An accuracy that differs in every argument."""
    base = {"racl": 80.0, "imm": 78.0, "joint": 90.0}[method]
    return base + len(user) / 7 + iteration / 3 + seed**2 / 11 - (after - on) * (1 + seed / 5) - on / 13


def made() -> list[Record]:
    """Two users, two iterations, three seeds and three tasks; Joint has only the last line of its matrix."""
    labels = {"racl": "MAS-RACL", "imm": "MAS-IMM", "joint": "Joint"}
    return [
        Record(
            *(
                "digits",
                "mlp",
                method,
                "none" if method == "joint" else "mas",
                "none",
                label,
                "paper",
                user,
                iteration,
                seed,
            ),
            after,
            on,
            value(method, user, iteration, seed, after, on),
        )
        for (method, label), user, iteration, seed in product(labels.items(), ("a", "bcd"), (1, 2), (1, 2, 3))
        for after, on in product((1, 2, 3), (1, 2, 3))
        if on <= after and (method != "joint" or after == 3)
    ]


@pytest.fixture
def frame(tmp_path: Path) -> pd.DataFrame:
    records.write(made(), tmp_path / "records.csv")
    return records.read(tmp_path / "records.csv")


def per_seed(method: str, seed: int) -> float:
    cases = product(("a", "bcd"), (1, 2), (1, 2, 3))
    return statistics.mean(value(method, user, i, seed, 3, on) for user, i, on in cases)


def test_records_survive_the_file_with_all_their_bits(frame: pd.DataFrame) -> None:
    assert [Record(**row) for row in frame.to_dict("records")] == made()


def test_mean_and_spread_are_over_seeds_of_means_over_users(frame: pd.DataFrame) -> None:
    row = tables.rows(frame)["MAS-RACL"]
    seeds = [per_seed("racl", seed) for seed in (1, 2, 3)]
    assert row.accuracy.mean == pytest.approx(statistics.mean(seeds))
    assert row.accuracy.std == pytest.approx(statistics.stdev(seeds))
    assert list(row.seeds.values()) == pytest.approx(seeds)
    lost = [statistics.mean([2 * (1 + s / 5), 1 + s / 5]) for s in (1, 2, 3)]
    assert row.forgetting.mean == pytest.approx(statistics.mean(lost))
    assert row.forgetting.std == pytest.approx(statistics.stdev(lost))
    assert set(row.users) == {"a", "bcd"}
    assert row.users["bcd"].mean - row.users["a"].mean == pytest.approx(2 / 7)


def test_joint_has_no_forgetting(frame: pd.DataFrame, tmp_path: Path) -> None:
    assert str(tables.rows(frame)["Joint"].forgetting) == "n/a"
    tables.write_summary(frame, tmp_path / "summary.json")
    summary = json.loads((tmp_path / "summary.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert summary["Joint"]["forgetting"] is None
    assert list(summary) == ["MAS-RACL", "MAS-IMM", "Joint"]


def test_a_paired_difference_has_no_spread_where_every_pair_differs_alike(frame: pd.DataFrame) -> None:
    difference = tables.differences(frame)["MAS-RACL minus MAS-IMM"]
    assert difference.mean == pytest.approx(2.0)
    assert difference.std == pytest.approx(0.0, abs=1e-9)


def test_the_table_shows_every_row_whole_in_80_columns(frame: pd.DataFrame) -> None:
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(tables.table(frame, "made"))
    text = console.export_text()
    for name, row in tables.rows(frame).items():
        (line,) = [line for line in text.splitlines() if line.startswith(f"│ {name} ")]
        assert str(row.accuracy) in line
        assert str(row.forgetting) in line


def test_rows_of_two_data_sets_are_kept_apart(frame: pd.DataFrame) -> None:
    both = pd.concat([frame, frame.assign(data="numbers")])
    assert next(iter(tables.rows(both))) == "digits / MAS-RACL"
    assert len(tables.rows(both)) == 6


def test_matrices_hold_the_records_and_nothing_else(frame: pd.DataFrame) -> None:
    found = {tuple(keys.values()): R for keys, R in records.matrices(frame)}
    assert len(found) == 3 * 2 * 2 * 3
    R = found["digits", "mlp", "racl", "mas", "none", "MAS-RACL", "paper", "bcd", 2, 3]
    assert R[2, 0] == value("racl", "bcd", 2, 3, 3, 1)
    assert np.isnan(R[np.triu_indices(3, 1)]).all()
    assert not np.isnan(R[np.tril_indices(3)]).any()


def test_a_row_has_as_many_tasks_as_it_was_run_on(frame: pd.DataFrame) -> None:
    fewer = frame[(frame["on"] < 3) & (frame["after"] < 3)].assign(data="numbers")
    found = tables.mean_matrices(pd.concat([frame, fewer]))
    assert {name: R.shape for name, R in found.items() if "RACL" in name} == {
        "digits / MAS-RACL": (3, 3),
        "numbers / MAS-RACL": (2, 2),
    }
    each = [R for keys, R in records.matrices(frame) if keys["label"] == "MAS-RACL"]
    assert found["digits / MAS-RACL"][2, 0] == pytest.approx(sum(R[2, 0] for R in each) / len(each))


def test_figures_are_pictures_for_one_row_and_for_several(frame: pd.DataFrame, tmp_path: Path) -> None:
    one = frame[(frame["label"] == "Joint") & (frame["seed"] == 1)]
    for name, part in (("all", frame), ("one", one)):
        for path in figures.draw_all(part, tmp_path / name):
            assert path.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "\x00\xff"])
def test_a_file_that_holds_no_records_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "records.csv").write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match="not a table of records"):
        records.read(tmp_path / "records.csv")


def test_columns_are_those_that_scripts_rely_on() -> None:
    promised = [
        "data",
        "model",
        "method",
        "importance",
        "adapt",
        "user",
        "iteration",
        "seed",
        "after",
        "on",
        "accuracy",
    ]
    assert [name for name in COLUMNS if name in promised] == promised


def test_released_records_have_the_released_forgetting(frame: pd.DataFrame) -> None:
    both = pd.concat([frame, frame.assign(fidelity="released")])
    found = tables.rows(both)
    paper, released = (found[f"{fidelity} / MAS-RACL"] for fidelity in ("paper", "released"))
    assert released.accuracy == paper.accuracy
    assert released.forgetting.mean == pytest.approx(paper.forgetting.mean * 2 / 3)
