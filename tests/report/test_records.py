"""A table of records gives back what was written, whatever users, tasks and rows are called."""

import math
from collections.abc import Iterable
from dataclasses import astuple
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dua_lightning.report import records
from dua_lightning.report.records import CostRecord, Record, TrainingRecord
from dua_lightning.report.stream import Stream
from tests.faults.pictures import NAMES
from tests.helpers.nets import law

ODD = ("nan", "NA", "null", "None", "007", "1", "1.0", "1e3", "True", "-inf", "\r", "\r\n", '"', '""', "a,b", " a ")


def plain(values: Iterable[object]) -> list[object]:
    return ["nothing" if value != value else value for value in values]


@pytest.mark.parametrize("streamed", [False, True])
@settings(parent=law, max_examples=20)
@given(user=st.sampled_from(ODD) | NAMES, task=st.sampled_from(ODD) | NAMES)
@example(user="\r", task="nan")
@example(user="007", task="\udce9\n")
def test_any_name_comes_back(streamed: bool, user: str, task: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("records")
    made = {
        "records": [
            Record("d", task, "m", "i", "a", "l", "paper", "user", "last", "images", who, 1, 2, 1, 1, 100 / 3)
            for who in (user, "z")
        ],
        "costs": [
            CostRecord("d", "m", "a", task, who, 1, 2, task, "exact", 3, 4, 0.5, math.nan) for who in (user, "1")
        ],
        "trainings": [TrainingRecord(1, user, task, 3, 0.25, math.nan)],
    }
    for kind, rows in made.items():
        path = folder / f"{kind}.csv"
        if streamed:
            with Stream(path) as stream:
                for row in rows:
                    stream.write([row])
        else:
            records.write(rows, path)
        of = type(rows[0])
        read = records.read(path) if of is Record else records.table(path, of)
        assert [plain(row) for row in read.itertuples(index=False)] == [plain(astuple(row)) for row in rows]


def test_tables_of_earlier_versions_are_filled_by_methods_and_adaptations(tmp_path: Path) -> None:
    rows = [
        # method, importance, adapt, label; prior, statistics, uses
        ("racl", "mas", "none", "MAS-RACL", "user", "last", "images"),
        ("racl", "fim", "none", "FIM-RACL", "user", "last", "labels"),
        ("racl", "mas", "none", "MAS-RACL, server's priors", "server", "last", "nothing"),
        ("racl", "none", "none", "RACL, mean merge", "none", "last", "nothing"),
        ("imm", "fim", "none", "FIM-IMM, server statistics, lr=0.1", "server", "server", "nothing"),
        ("imm", "mas", "adabn", "MAS-IMM + AdaBN", "server", "last", "images"),
        ("mean_imm", "none", "adabn_s", "mean-IMM + AdaBN-S", "none", "last", "labels"),
        ("joint", "none", "none", "Joint", "none", "none", "nothing"),
        ("task_experts", "none", "finetune", "Task Experts", "none", "none", "labels"),
    ]
    made = [Record("d", "m", *row[:4], "paper", *row[4:], "ann", 1, 1, 1, 1, 50.0) for row in rows]
    records.write(made, tmp_path / "new.csv")
    frame = records.read(tmp_path / "new.csv")
    old = frame.drop(columns=["prior", "statistics", "uses"]).to_csv(index=False)
    (tmp_path / "old.csv").write_text(old, encoding="utf-8")
    pd.testing.assert_frame_equal(records.read(tmp_path / "old.csv"), frame)
