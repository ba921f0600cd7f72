"""Records written one after another are those written at once, and survive what ends the run."""

import math
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest

from dua_lightning.errors import InputError
from dua_lightning.report import records
from dua_lightning.report.records import CostRecord, Record
from dua_lightning.report.stream import Stream
from tests.report.test_tables import made


def costs() -> list[CostRecord]:
    first = CostRecord("d", "m", "finetune", 'Task, "Experts"', "a", 1, 1, "0-1", "none", 10, 40, 1e-9, math.nan)
    return [first, replace(first, seconds=100 / 3, peak_bytes=0.0)]


@pytest.mark.parametrize("rows", [made(), costs()], ids=["accuracies", "costs"])
def test_the_bits_are_those_of_all_records_at_once(rows: list, tmp_path: Path) -> None:
    records.write(rows, tmp_path / "once.csv")
    with Stream(tmp_path / "stream.csv") as stream:
        for start in range(0, len(rows), 7):
            stream.write(rows[start : start + 7])
    assert (tmp_path / "stream.csv").read_bytes() == (tmp_path / "once.csv").read_bytes()


def stopped(stream: Stream) -> None:
    with stream:
        stream.write(made()[:6])
        assert not stream.path.exists()
        raise KeyboardInterrupt


def test_a_run_that_is_stopped_leaves_what_it_has_and_no_temporary_file(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        stopped(Stream(tmp_path / "records.csv"))
    assert [Record(**row) for row in records.read(tmp_path / "records.csv").to_dict("records")] == made()[:6]
    assert [path.name for path in tmp_path.iterdir()] == ["records.csv"]


def test_without_records_there_is_no_file_and_an_earlier_one_stays(tmp_path: Path) -> None:
    with Stream(tmp_path / "costs.csv") as stream:
        stream.write([])
    assert not (tmp_path / "costs.csv").exists()
    (tmp_path / "costs.csv").write_text("earlier")
    with Stream(tmp_path / "costs.csv"):
        pass
    assert (tmp_path / "costs.csv").read_text() == "earlier"


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"), Stream(tmp_path / "file" / "records.csv") as stream:
        stream.write(made()[:1])


class Full(StringIO):
    """Has room for the first records alone."""

    def write(self, text: str) -> int:
        if self.tell():
            raise OSError(28, "No space left on device")
        return super().write(text)


def filled(stream: Stream) -> None:
    with stream:
        stream.write(made()[:6])
        stream.write(made()[6:12])


def test_a_full_disk_is_one_line_and_the_earlier_table_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "records.csv").write_text("earlier")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", lambda *_, **__: Full())
        with pytest.raises(InputError, match="No space left"):
            filled(Stream(tmp_path / "records.csv"))
    assert (tmp_path / "records.csv").read_text() == "earlier"
    assert [path.name for path in tmp_path.iterdir()] == ["records.csv"]
