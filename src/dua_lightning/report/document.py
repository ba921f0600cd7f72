"""What a report consists of, whatever it is written as."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd


@dataclass(frozen=True)
class Table:
    """`name`: of its CSV file. `note`: what its numbers are. `formats`: of columns that two decimals do not suit.

    `folded`: too long to be read in passing.
    """

    name: str
    frame: pd.DataFrame
    note: str
    formats: Mapping[str, str] = field(default_factory=dict)
    folded: bool = False

    def text(self, column: str, value: object) -> str:
        """A cell for people; nothing for what is not defined."""
        if pd.isna(value):  # type: ignore[call-overload]
            return ""
        return format(value, self.formats.get(column, ".2f" if isinstance(value, float) else ""))


@dataclass(frozen=True)
class Picture:
    """An SVG file, and the title that it carries."""

    path: Path
    title: str


@dataclass(frozen=True)
class Commands:
    """To be pasted into a shell, each below what it makes."""

    note: str
    lines: Mapping[str, str]
    folded: bool = False


@dataclass(frozen=True)
class Section:
    """A heading, sentences, and what they are about."""

    title: str
    text: str
    parts: tuple[Table | Picture | Commands, ...]


@dataclass(frozen=True)
class Document:
    """`lead`: what was run, in sentences."""

    title: str
    lead: str
    sections: tuple[Section, ...]
