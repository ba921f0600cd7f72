"""The output of a run where names and encodings are awkward: every printed path exists, and the work is kept."""

import io
import sys
from pathlib import Path

import pytest

from tests.helpers.cli import TINY, Done, run


def test_a_run_and_its_report_end_well_whatever_the_names_and_the_encoding(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out [red] :smile:"
    # Python is strict about what such a stream cannot write.
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", newline="")
    monkeypatch.setattr(sys, "stdout", stream)
    settings = [*TINY, "seed=[1,2]", 'name="run [/b] 小"', f'paths.output_dir="{folder}"']
    for words in (settings, ["report", str(folder)]):
        assert run(*words, capfd=capfd, monkeypatch=monkeypatch) == Done(0, "", "")
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    text = buffer.getvalue().decode("ascii")
    assert "run [/b] \\u5c0f" in text.splitlines()
    assert " +- " in text
    paths = [Path(line.strip()) for line in text.splitlines() if str(tmp_path) in line]
    assert len(paths) == 8
    assert all(path.is_file() for path in paths)
    assert (folder / "done.json").exists()
