"""The door to the terminal: text as it is, in any encoding, and tables that fit."""

import io
import re
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from dua_lightning.report import display
from dua_lightning.report.characters import CONTROL, SPELT, writable
from dua_lightning.report.display import Display
from dua_lightning.report.terminal import WORD, Column, Sheet, Terminal

AWKWARD = (
    "[red]",
    "[/b]",
    "[",
    ":smile:",
    "\\",
    "'",
    '"',
    "\n",
    "\x1b[2J",
    "\r",
    "\x00",
    "\t",
    "\udce9",
    "±",
    "…",
    "小",
    "🙂",
)
NAMES = st.lists(st.sampled_from((*AWKWARD, "a", " ", "b", "אב", "\u202e", "e\u0301")), min_size=1, max_size=8).map(
    "".join
)
ENCODINGS = ("utf-8", "ascii", "latin-1")


@pytest.fixture(autouse=True)
def _no_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of pytest cannot tell each other of a log with bytes that are no text."""
    monkeypatch.setattr(display.log, "disabled", True)


def stream(encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=SPELT, newline="")


def written(file: io.TextIOWrapper) -> bytes:
    file.flush()
    buffer = file.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue()


def printed(thing: object, encoding: str = "utf-8", width: int = 80) -> str:
    file = stream(encoding)
    Terminal(file=file, width=width).print(thing)
    return written(file).decode(encoding, "surrogateescape")


@settings(deadline=None)
@given(NAMES, st.sampled_from(ENCODINGS))
def test_a_line_is_printed_as_it_is(name: str, encoding: str) -> None:
    file = stream(encoding)
    Display(Terminal(file=file)).say(f"user {name} is done")
    assert written(file).decode(encoding, "surrogateescape") == f"user {writable(name, encoding)} is done\n"


@settings(deadline=None)
@given(st.text())
def test_what_an_encoding_has_is_written_as_it_is(text: str) -> None:
    plain = CONTROL.sub("", "".join(c for c in text if unicodedata.category(c) != "Cs"))
    assert writable(plain, "utf-8") == plain
    ascii_only = writable(text, "ascii")
    assert ascii_only.isascii()
    assert not re.search(r"[^\n\x20-\x7e]", ascii_only)


def test_the_bytes_of_a_folders_name_are_written_as_they_are() -> None:
    file = stream("utf-8")
    Terminal(file=file).print("caf\udce9/records.csv")
    assert written(file) == b"caf\xe9/records.csv\n"


@settings(deadline=None)
@given(st.lists(NAMES.map(lambda name: name.replace("\n", "")), min_size=1, max_size=4), st.sampled_from(ENCODINGS))
def test_a_table_holds_every_name_and_number(names: list[str], encoding: str) -> None:
    numbers = [f"{n}1.25 ± {n}.50" for n in range(len(names))]
    sheet = Sheet("[bold]", [Column("[red]", names, number=False), Column("accuracy", numbers)], "± [i]")
    text = printed(sheet, encoding, width=200)
    assert "[bold]" in text
    assert "[red]" in text
    assert writable("± [i]", encoding) in text
    lines = iter(text.splitlines())
    for name, number in zip(names, numbers, strict=True):
        whole = " ".join(writable(name, encoding).split())
        assert any(whole in " ".join(line.split()) and writable(number, encoding) in line for line in lines)


@settings(deadline=None)
@given(
    labels=st.lists(st.text("ab ,=小", min_size=1, max_size=90), min_size=1, max_size=10),
    headings=st.lists(st.text("ab 小", min_size=1, max_size=60), max_size=10),
    width=st.integers(48, 120),
)
@example(["=", " ============"], ["a"] * 6, 106)
def test_a_table_fits_and_cuts_no_number(labels: list[str], headings: list[str], width: int) -> None:
    numbers = [f"{17 * n % 100}.{n % 10}3 ± 1.07" for n in range(len(labels))]
    columns = [Column(heading, numbers) for heading in headings]
    text = printed(Sheet("title", [Column("method", labels, number=False), *columns], 40 * "note "), width=width)
    assert max(map(cell_len, text.splitlines())) <= width
    for number in numbers:
        assert text.count(number) >= len(headings)
    for label in labels:
        for word in label.split():
            assert cell_len(word) > WORD or word in text


def test_columns_without_room_follow_below_with_the_names_of_their_lines() -> None:
    columns = [
        Column("method", ["racl", "imm"], number=False),
        *(Column(f"user{n}", ["81.25", "79.50"]) for n in range(12)),
    ]
    text = printed(Sheet("title", columns))
    assert [len(re.findall(rf"\b{name}\b", text)) for name in ("title", "method", "racl", "user0", "user11")] == [
        1,
        2,
        2,
        1,
        1,
    ]
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("width", [1, 20])
def test_no_number_is_cut_where_nothing_fits(width: int) -> None:
    text = printed(
        Sheet("", [Column("method", ["racl"], number=False), Column("accuracy", ["81.25 ± 0.50"])]), width=width
    )
    assert "81.25 ± 0.50" in text
