"""`dua report` from the command line: three forms of the same, and bad input in one line."""

import csv
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from dua_lightning.report import pages
from dua_lightning.report.document import Answer, Answers, Commands, Document, Section, Table
from tests.helpers.cli import Done, refused, run
from tests.report import folders

Dua = Callable[..., Done]


@pytest.fixture
def dua(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Dua:
    return lambda *arguments: run(*map(str, arguments), capfd=capfd, monkeypatch=monkeypatch)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folders.run(tmp_path_factory.mktemp("report") / "run")


class Page(HTMLParser):
    """The addresses that a page asks a browser to load, its open tags, and the texts of its cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.open: list[str] = []
        self.cells: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "td":
            self.cells.append(data)


def test_the_report_is_one_page_one_text_and_a_table_for_each(dua: Dua, folder: Path) -> None:
    done = dua("report", folder)
    assert (done.status, done.err) == (0, "")
    out = folder / "report"
    assert done.out.split() == [str(out / "report.html"), str(out / "report.md")]
    text = (out / "report.html").read_text()
    assert f"<summary>{folder}: 10 commands</summary>" in text
    page = Page(text)
    assert page.open == []
    assert sum(text.startswith("data:image/svg+xml;base64,") for text in page.loaded) == 7
    assert all(text.startswith(("data:", "#")) for text in page.loaded), "the page needs nothing from elsewhere"
    text = (out / "report.md").read_text()
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert (out / link).is_file()
    with (out / "tables" / "rows.csv").open() as file:
        first = next(csv.DictReader(file))
    assert first["row"] == "MAS-RACL"
    assert f"{float(first['accuracy']):.2f}" in page.cells
    assert f"| MAS-RACL | {float(first['accuracy']):.2f} |" in text
    assert not list(out.rglob(".*")), "temporary files are left"


def test_out_names_another_folder_and_is_written_over(dua: Dua, folder: Path, tmp_path: Path) -> None:
    for _ in range(2):
        assert dua("report", folder, "--out", tmp_path / "a" / "b").status == 0
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == [
        *("figures", "report.html", "report.md", "tables")
    ]


def test_bad_input_is_one_line(dua: Dua, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "config.yaml").write_text("a: 1\n")
    (tmp_path / "theirs" / "records.csv").write_text("time,value\n1,2\n")
    for arguments, words in (
        ((), "RUN_OR_SWEEP"),
        ((tmp_path / "absent",), "absent"),
        ((tmp_path / "theirs",), "theirs"),
        ((folder, "--output", "x"), "--output"),
        ((folder, "--out", tmp_path / "file"), "--out"),
    ):
        done = dua("report", *arguments)
        assert refused(done), done.err
        assert words in done.err


@pytest.mark.parametrize("command", ["report", "compare"])
def test_help_does_without_torch(command: str) -> None:
    code = f"import sys; sys.argv[1:] = ['{command}', '--help']\nimport dua_lightning.__main__ as m\ntry: m.main()\n"
    code += "finally: print('torch' in sys.modules, 'pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"usage: dua {command}" in done.stdout
    assert done.stdout.endswith("False False\n")


def odd(lines: int = 2) -> Document:
    """Names that would be markup, a number that is not one, and a long table."""
    frame = pd.DataFrame({"<b>": ["a|b", "<script>"] * (lines // 2), "x": [1.23456, float("nan")] * (lines // 2)})
    answer = Answer("Why <b>?", "Since a_b.", ("dua 'c&d'",))
    parts = (
        Answers((answer,)),
        Table("odd", frame, "a_note", {"x": ".1f"}),
        Commands("<run>", {"all": "dua 'a&b'"}),
    )
    return Document("<title>", "lead & more", (Section("Odd", "", parts),))


def test_nothing_in_the_data_becomes_markup() -> None:
    page = pages.html(odd())
    assert Page(page).open == []
    for text in ("<b>", "<title><", "a&b", "c&d", "<run>", "<td><script>"):
        assert text not in page
    assert '<td class="number" data-value="1.23456">1.2</td>' in page
    assert '<td class="number"></td>' in page
    text = pages.markdown(odd(), Path())
    assert "| a\\|b | 1.2 |\n| \\<script> |  |" in text
    assert "    dua 'a&b'" in text
    assert "**Why \\<b>?** Since a\\_b.\n\n    dua 'c&d'\n" in text


def test_long_tables_are_cut_on_the_page_and_say_so() -> None:
    assert pages.html(odd(2000)).count("<tr>") == 1 + pages.LONGEST
    assert "The first 500 of 2,000 lines" in pages.html(odd(2000))
    assert "All 2,000 lines as [CSV](tables/odd.csv)" in pages.markdown(odd(2000), Path())
