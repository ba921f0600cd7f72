"""A report as one HTML file that needs nothing else: figures, style and the sorting of tables are in it."""

import base64
from collections.abc import Iterator
from html import escape
from pathlib import Path

from pandas.api.types import is_numeric_dtype

from dua_lightning.report.document import Commands, Document, Picture, Section, Table

STYLE, SCRIPT = (Path(__file__).with_name(f"page.{ending}").read_text(encoding="utf-8") for ending in ("css", "js"))
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""What a browser may load: nothing from anywhere."""
LONGEST = 500
"""Lines of a table on the page; all of them are in its CSV file."""
WIDE = 60
"""Characters of a cell that may be broken into lines."""


def render(document: Document) -> str:
    """The page."""
    sections = "".join(
        f"<section>{''.join(_section(section, n))}</section>" for n, section in enumerate(document.sections)
    )
    links = "".join(f'<a href="#s{n}">{escape(section.title)}</a>' for n, section in enumerate(document.sections))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
        f"<title>{escape(document.title)}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n"
        f"<header><h1>{escape(document.title)}</h1><p>{escape(document.lead)}</p></header>\n<nav>{links}</nav>\n"
        f"<main>\n{sections}</main>\n<script>\n{SCRIPT}</script>\n</body>\n</html>\n"
    )


def _section(section: Section, number: int) -> Iterator[str]:
    yield f'<h2 id="s{number}">{escape(section.title)}</h2>\n'
    if section.text:
        yield f"<p>{escape(section.text)}</p>\n"
    for part in section.parts:
        if isinstance(part, Picture):
            code = base64.b64encode(part.path.read_bytes()).decode()
            yield f'<figure><img alt="{escape(part.title)}" src="data:image/svg+xml;base64,{code}"></figure>\n'
        elif isinstance(part, Table):
            text = f'<p class="note">{escape(_note(part))}</p>\n'
            yield (
                _folded(f"{part.name}: {len(part.frame):,} lines", _table(part) + text)
                if part.folded
                else _table(part) + text
            )
        else:
            lines = _commands(part)
            title = f"{part.note}: {len(part.lines):,} commands"
            yield _folded(title, lines) if part.folded else f'<p class="note">{escape(part.note)}</p>{lines}'


def _table(table: Table) -> str:
    frame = table.frame
    numbers = {name: is_numeric_dtype(frame[name]) for name in frame}
    looks = {name: ' class="number"' if numbers[name] else "" for name in frame}
    headings = "".join(f"<th{looks[name]}><button>{escape(str(name))}</button></th>" for name in frame)
    lines = []
    for line in frame.head(LONGEST).to_dict("records"):
        cells = []
        for name, value in line.items():
            text = table.text(str(name), value)
            look = looks[name] or (' class="wide"' if len(text) > WIDE else "")
            # Two decimals do for the eye, and not for the order.
            exact = f' data-value="{value}"' if numbers[name] and text else ""
            cells.append(f"<td{look}{exact}>{escape(text)}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>\n")
    return (
        f'<div class="sheet"><table id="{escape(table.name)}"><thead><tr>{headings}</tr></thead>\n'
        f"<tbody>\n{''.join(lines)}</tbody></table></div>\n"
    )


def _note(table: Table) -> str:
    cut = f" The first {LONGEST} of {len(table.frame):,} lines." if len(table.frame) > LONGEST else ""
    return f"{table.note}{cut} Click on a heading to sort."


def _commands(commands: Commands) -> str:
    return "".join(
        f'<p class="note">{escape(what)}</p><pre>{escape(line)}</pre>\n' for what, line in commands.lines.items()
    )


def _folded(title: str, inside: str) -> str:
    return f"<details><summary>{escape(title)}</summary>\n{inside}</details>\n"
