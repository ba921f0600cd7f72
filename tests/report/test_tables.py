"""Records, the table and its figures of merit, against plain arithmetic on a hand-made run."""

import json
import statistics
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dua_lightning.errors import InputError
from dua_lightning.report import figures, records, tables
from dua_lightning.report.records import COLUMNS, CostRecord, Record
from dua_lightning.report.reduce import over_seeds, reduce
from dua_lightning.report.terminal import Terminal

OWN = {"racl": ("user", "last", "images"), "imm": ("server", "last", "nothing"), "joint": ("none", "none", "nothing")}
"""For each row who measures its prior, its statistics, and what it uses of a user's own."""


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
                *OWN[method],
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


def test_the_summary_has_every_figure_and_null_where_it_is_not_defined(frame: pd.DataFrame, tmp_path: Path) -> None:
    tables.write_summary(
        reduce([frame]), records.table(tmp_path / "costs.csv", CostRecord), None, tmp_path / "summary.json"
    )
    summary = json.loads((tmp_path / "summary.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert list(summary) == ["MAS-RACL", "MAS-IMM", "Joint"]
    assert summary["Joint"]["forgetting"] is None
    row = summary["MAS-RACL"]
    seeds = [per_seed("racl", seed) for seed in (1, 2, 3)]
    assert row["seeds"] == {str(seed): pytest.approx(value) for seed, value in zip((1, 2, 3), seeds, strict=True)}
    assert row["average_accuracy"] == pytest.approx(statistics.mean(seeds))
    assert row["average_accuracy_std"] == pytest.approx(statistics.stdev(seeds))
    assert row["users"]["bcd"]["mean"] - row["users"]["a"]["mean"] == pytest.approx(2 / 7)
    assert (row["data"], row["method"], row["importance"]) == ("digits", "racl", "mas")


@pytest.mark.parametrize("width", [80, 56])
def test_the_table_cuts_no_number_where_it_is_narrow(width: int, frame: pd.DataFrame) -> None:
    reduced = reduce([frame])
    console = Terminal(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(tables.table(reduced, "made"))
    text = console.export_text()
    for name, accuracy, accuracy_std, lost, lost_std in over_seeds(reduced.draws).itertuples():
        line, *_ = [line for line in text.splitlines() if line.startswith(f"│ {name} ")]
        assert tables.shown(accuracy, accuracy_std) in line
        assert tables.shown(lost, lost_std) in line
    assert "MAS-RACL minus MAS-IMM, paired: 2.00 ± 0.00" in " ".join(text.split())


def test_matrices_hold_the_records_and_nothing_else(frame: pd.DataFrame) -> None:
    ((keys, R),) = records.matrices(frame)
    assert R.shape == (3 * 2 * 2 * 3, 3, 3)
    identity = ["digits", "mlp", "racl", "mas", "none", "MAS-RACL", "paper", "user", "last", "images", "bcd", 2, 3]
    (place,) = keys.index[(keys == identity).all(axis=1)]
    assert R[place, 2, 0] == value("racl", "bcd", 2, 3, 3, 1)
    assert np.isnan(R[place][np.triu_indices(3, 1)]).all()
    assert not np.isnan(R[place][np.tril_indices(3)]).any()


def test_figures_are_pictures_for_one_row_and_for_several(frame: pd.DataFrame, tmp_path: Path) -> None:
    one = frame[(frame["label"] == "Joint") & (frame["seed"] == 1)]
    for name, part in (("all", frame), ("one", one)):
        for path in figures.draw_all(reduce([part]), tmp_path / name):
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
