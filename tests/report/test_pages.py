"""Names of people's own on the pages of a report: as they are, and nothing but text."""

from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from dua_lightning.report.characters import writable
from dua_lightning.report.document import Document, Section, Table
from dua_lightning.report.pages import html, markdown

AWKWARD = (
    *("<b>", "&amp;", "[red]", "[a](b)", "|", "\\", "`", "*", "_", '"', "'"),
    *("\n", "\x1b[2J", "\x00", "\u202e", "אב", "小"),
)
NAMES = st.lists(st.sampled_from((*AWKWARD, "a", " ")), min_size=1, max_size=6).map("".join)


class Cells(HTMLParser):
    """The texts of a page's cells and titles."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag in ("td", "h1"):
            self.texts.append("")

    def handle_data(self, data: str) -> None:
        if self.texts:
            self.texts[-1] += data

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "h1"):
            self.texts.append("")


@settings(deadline=None)
@given(st.lists(NAMES, min_size=1, max_size=4))
def test_a_name_is_a_text_on_every_page(names: list[str]) -> None:
    table = Table("users", pd.DataFrame({"user": names, "accuracy": 81.25}), "note")
    document = Document(names[0], "lead", (Section("Users", "", (table,)),))
    read = Cells()
    read.feed(html(document))
    texts = [text for text in read.texts if text.strip()]
    shown = [writable(name, "utf-8") for name in names]
    assert read.texts[0] == shown[0]
    assert all(name in texts or not name.strip() for name in shown)
    lines = [line for line in markdown(document, Path()).splitlines() if line.endswith(" | 81.25 |")]
    assert len(lines) == len(names)
    for line, name in zip(lines, shown, strict=True):
        cell = line.removeprefix("| ").removesuffix(" | 81.25 |")
        plain = cell.replace("\\\\", "\0").replace("\\", "").replace("\0", "\\")
        assert plain == name.replace("\n", " ")
