"""A report as Markdown, with its figures and CSV files beside it."""

from collections.abc import Iterator
from pathlib import Path

from pandas.api.types import is_numeric_dtype

from dua_lightning.report.document import Document, Picture, Section, Table

LONGEST = 60
"""Lines of a table in the text; all of them are in its CSV file."""


def render(document: Document, folder: Path) -> str:
    """The text; `folder` is where it will lie, with the tables as `tables/NAME.csv` below it."""
    parts = [f"# {_escaped(document.title)}", _escaped(document.lead)]
    for section in document.sections:
        parts += _section(section, folder)
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(section: Section, folder: Path) -> Iterator[str]:
    yield f"## {section.title}"
    yield _escaped(section.text)
    for part in section.parts:
        if isinstance(part, Picture):
            yield f"![{_escaped(part.title)}]({part.path.relative_to(folder).as_posix()})"
        elif isinstance(part, Table):
            if not part.folded:
                yield _table(part)
            more = f" All {len(part.frame):,} lines" if part.folded or len(part.frame) > LONGEST else " The same"
            yield f"{_escaped(part.note)}{more} as [CSV](tables/{part.name}.csv)."
        else:
            yield f"{_escaped(part.note)}:"
            yield "\n".join(f"    {line}" for line in part.lines.values())


def _table(table: Table) -> str:
    frame = table.frame
    heading = [_escaped(str(name)) for name in frame]
    rule = ["--:" if is_numeric_dtype(frame[name]) else "---" for name in frame]
    lines = [
        [_escaped(table.text(str(name), value)) for name, value in line.items()]
        for line in frame.head(LONGEST).to_dict("records")
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [heading, rule, *lines])


def _escaped(text: str) -> str:
    """Characters that would be a table's, a heading's or HTML's."""
    for character in "\\|<`*_":
        text = text.replace(character, f"\\{character}")
    return text
