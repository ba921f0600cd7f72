"""No file that is damaged, foreign or malicious is believed, executed or silently skipped."""

import pickle
from pathlib import Path

import pytest

from benchmarks.memory import reset_peak, status
from tests.faults.readers import READERS, Reader, verdicts

QUICK, ALL = 40, 1000

MEMORY = 2**30
"""Bytes by which reading may raise what the process holds; the largest picture that is let in has three quarters."""

pytestmark = pytest.mark.filterwarnings("ignore")


def faults(reader: Reader, count: int, folder: Path) -> dict[str, str]:
    return {name: wrong for name, wrong in verdicts(reader, count, folder) if wrong}


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_damaged_and_hostile_files_are_refused(reader: Reader, tmp_path: Path) -> None:
    before = reset_peak()
    assert not faults(reader, QUICK, tmp_path)
    assert not status("VmHWM") - before > MEMORY


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_a_thousand_damaged_files_are_refused(reader: Reader, tmp_path: Path) -> None:
    assert not faults(reader, ALL, tmp_path)


def test_a_reader_that_unpickles_is_seen(tmp_path: Path) -> None:
    def make(folder: Path) -> Path:
        (folder / "a.pickle").write_bytes(pickle.dumps("abc" * 99))
        return folder / "a.pickle"

    wrong = faults(Reader("pickle", make, lambda path: pickle.loads(path.read_bytes()), True), QUICK, tmp_path)  # noqa: S301
    assert wrong["a pickle"].startswith("something was executed")
    assert any(text.startswith("accepted, with another value") for text in wrong.values())
    assert any("Error" in text for text in wrong.values())
