"""A table of records gives back what was written, whatever users, tasks and rows are called."""

import math
from collections.abc import Iterable
from dataclasses import astuple

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
        "records": [Record("d", task, "m", "i", "a", "l", "paper", who, 1, 2, 1, 1, 100 / 3) for who in (user, "z")],
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
        read = {"records": records.read, "costs": records.costs, "trainings": records.trainings}[kind]
        assert [plain(row) for row in read(path).itertuples(index=False)] == [plain(astuple(row)) for row in rows]
