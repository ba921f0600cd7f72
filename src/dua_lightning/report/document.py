"""The parts of a report, in whatever format it is written."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pandas as pd
from pandas.api.types import is_numeric_dtype


@dataclass(frozen=True)
class Shown:
    """A value of a table and its text for people.

    Args:
        value: The value.
        text: The text; that of a value that is not defined is empty.
        number: Whether the column has numbers.
        best: Whether none in the column is better.
    """

    value: object
    text: str
    number: bool
    best: bool


@dataclass(frozen=True)
class Printed:
    """The part of a table that a paper prints.

    Args:
        caption: The meaning of its numbers, as a sentence without its stop.
        columns: The columns, each with the column of the spread that stands behind it, or an empty text.
        best: The columns in which some values are better than others: whether the `highest` or the `lowest` is best.
        spread: The meaning of what stands behind ±; empty where nothing does.
        parts: The column whose values are headings of the lines that have them; empty for none.
    """

    caption: str
    columns: Mapping[str, str]
    best: Mapping[str, Literal["highest", "lowest"]] = field(default_factory=dict)
    spread: str = ""
    parts: str = ""


@dataclass(frozen=True)
class Table:
    """Numbers or words.

    Args:
        name: The name of its CSV file.
        frame: Its columns.
        note: The meaning of its numbers.
        formats: The formats of columns that two decimals do not suit.
        folded: Whether it is too long to be read in passing.
        printed: What a paper prints of it; nothing by default.
    """

    name: str
    frame: pd.DataFrame
    note: str
    formats: Mapping[str, str] = field(default_factory=dict)
    folded: bool = False
    printed: Printed | None = None

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return [str(name) for name in self.frame]

    def numeric(self, column: str) -> bool:
        """Tell whether a column has numbers.

        Args:
            column: The column's name.

        Returns:
            Whether it has.
        """
        return is_numeric_dtype(self.frame[column])

    def lines(self, longest: int) -> Iterator[list[Shown]]:
        """Give the first lines.

        Args:
            longest: The largest number of lines.

        Yields:
            The values of a line.
        """
        numbers, best = [self.numeric(column) for column in self.columns], self._best()
        for line in self.frame.head(longest).to_dict("records"):
            texts = {str(column): self._text(str(column), value) for column, value in line.items()}
            bests = [bool(text) and text == best.get(column) for column, text in texts.items()]
            yield [Shown(*shown) for shown in zip(line.values(), texts.values(), numbers, bests, strict=True)]

    def _best(self) -> dict[str, str]:
        """The text of the best value by column, where values differ; what looks alike is equally good."""
        of = self.printed.best if self.printed else {}
        ends = {name: self.frame[name].agg("max" if kind == "highest" else "min") for name, kind in of.items()}
        return {name: self._text(name, end) for name, end in ends.items() if self.frame[name].nunique() > 1}

    def _text(self, column: str, value: object) -> str:
        if pd.isna(value):  # type: ignore[call-overload]
            return ""
        return format(value, self.formats.get(column, ".2f" if isinstance(value, float) else ""))


@dataclass(frozen=True)
class Picture:
    """A figure.

    Args:
        path: The SVG file.
        title: The title that it carries.
    """

    path: Path
    title: str


@dataclass(frozen=True)
class Commands:
    """Commands to be pasted into a shell.

    Args:
        note: The text above them.
        lines: The commands by what they make.
        folded: Whether they are too many to be read in passing.
    """

    note: str
    lines: Mapping[str, str]
    folded: bool = False


@dataclass(frozen=True)
class Answer:
    """A question and its answer.

    Args:
        question: The question.
        text: The answer in sentences.
        commands: Commands to be pasted into a shell.
    """

    question: str
    text: str
    commands: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answers:
    """Questions and their answers.

    Args:
        answers: The answers in the order of the questions.
    """

    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Section:
    """A heading, sentences, and the parts that they are about.

    Args:
        title: The heading.
        text: The sentences.
        parts: Tables, pictures, commands and answers.
    """

    title: str
    text: str
    parts: tuple[Table | Picture | Commands | Answers, ...]


@dataclass(frozen=True)
class Document:
    """A report.

    Args:
        title: The title.
        lead: Sentences that say what was run.
        sections: The sections.
    """

    title: str
    lead: str
    sections: tuple[Section, ...]
