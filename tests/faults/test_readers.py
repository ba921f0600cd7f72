"""No file that is damaged, foreign or malicious is believed, executed or silently skipped."""

import pickle
import shutil
from pathlib import Path
from random import Random

import pytest

from dua_lightning.adapt.cost import reset_peak, status
from tests.faults.readers import READERS, Reader, fault, hostile, mutated

QUICK, ALL = 40, 1000

MEMORY = 2**30
"""Bytes by which reading may raise what the process holds; the largest picture that is let in has a quarter of it."""

pytestmark = pytest.mark.filterwarnings("ignore")


def faults(reader: Reader, count: int, folder: Path) -> dict[str, str]:
    """What is wrong with `count` mutated files, by their number, and with hostile ones, by what they are."""
    (folder / "place").mkdir()
    canary = folder / "canary"
    path = reader.make(folder / "place")
    good, value = path.read_bytes(), reader.read(path)
    random = Random(0)
    contents = {str(i): mutated(good, random) for i in range(count)} | dict(hostile(canary))
    found = {}
    for name, content in contents.items():
        shutil.rmtree(folder / "place" / "out", ignore_errors=True)
        if wrong := fault(reader, path, value, content, canary):
            found[name] = wrong
    return found


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
