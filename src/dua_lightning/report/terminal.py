"""The one door to the terminal, and tables that fit it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from dua_lightning.report.characters import writable

WORD = 20
"""A longer word in a table may be broken."""
FRAME = 3
"""The characters of a table's frame beside each column; the table has one more."""


class Terminal(Console):
    """A console that prints every text as it is: no word in brackets or between colons means anything else.

    Characters that the encoding lacks, and those that a terminal would act on, are spelt out.

    Args:
        **arguments: Further arguments of rich's `Console`, such as `file` and `stderr`.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**{"soft_wrap": True, "markup": False, "emoji": False, "highlight": False, **arguments})

    def render_str(self, text: str, **arguments: Any) -> Text:
        """Make the text of a line or a cell; rich asks for it wherever it is given a string.

        Args:
            text: The string.
            **arguments: Further arguments of rich's method.

        Returns:
            The text.
        """
        return super().render_str(writable(text, self.encoding), **arguments)


@dataclass(frozen=True)
class Column:
    """A column of a sheet.

    Args:
        heading: Its heading.
        cells: Its cells.
        number: Whether they are numbers, which are never broken.
        footer: The text below.
    """

    heading: str
    cells: Sequence[str]
    number: bool = True
    footer: str = ""

    def widths(self, console: Console) -> tuple[int, int]:
        """Compute the width in which no number is broken, nor a word up to `WORD`, and the one in which nothing is.

        Args:
            console: The console that is printed to.

        Returns:
            Both widths in cells of the terminal.
        """

        def longest(texts: Iterable[str]) -> int:
            return max(map(cell_len, texts), default=0)

        cells, others = (
            [line for text in texts for line in writable(text, console.encoding).split("\n")]
            for texts in (self.cells, (self.heading, self.footer))
        )
        words = longest(word for line in (*cells, *others) for word in line.split())
        return max(min(WORD, words), longest(cells) if self.number else 0), longest([*cells, *others])


@dataclass(frozen=True)
class Sheet:
    """A table for the terminal that fits its width.

    Texts are broken between words and numbers never. Columns without room follow in a further table below.

    Args:
        title: The title; an empty one is left out.
        columns: The columns.
        caption: The lines below.
        keys: The number of columns at the left that name a line, which every further table has too.
    """

    title: str
    columns: Sequence[Column]
    caption: str = ""
    keys: int = 1

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Give the tables to rich."""
        parts = list(self._parts(console, options.max_width))
        for number, part in enumerate(parts):
            title = (self.title or None) if number == 0 else None
            table = Table(title=title, title_justify="left", show_footer=any(column.footer for column in part))
            room = options.max_width - _least(part, console)
            for column in part:
                least, whole = column.widths(console)
                width = min(whole, least + max(0, room))
                room -= width - least
                justify: Any = "right" if column.number else "left"
                table.add_column(column.heading, column.footer, justify=justify, width=width, overflow="fold")
            for line in zip(*(column.cells for column in part), strict=True):
                # Spaces before a word are a part of it where rich breaks lines, and would make it too long.
                table.add_row(*(cell.lstrip(" ") for cell in line))
            # A terminal that is too narrow for a number breaks the line, and the number is whole.
            yield from console.render(table, options.update(width=max(options.max_width, _least(part, console))))
        if self.caption:
            caption = console.render_str(self.caption, style="table.caption")
            yield from console.render(caption, options.update(no_wrap=False, overflow="fold"))

    def _parts(self, console: Console, width: int) -> Iterator[list[Column]]:
        keys = list(self.columns[: self.keys])
        part = keys
        for column in self.columns[self.keys :]:
            if len(part) > len(keys) and _least([*part, column], console) > width:
                yield part
                part = keys
            part = [*part, column]
        yield part


def _least(columns: Sequence[Column], console: Console) -> int:
    return 1 + sum(FRAME + column.widths(console)[0] for column in columns)
