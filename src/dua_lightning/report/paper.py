"""The tables of a report as a paper prints them: LaTeX with booktabs, and Markdown.

A mean and its spread share a cell, the best of a column is bold, and the caption says what the numbers are, how many
seeds and users they come from, and the command that makes them again.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from dua_lightning.report.characters import writable
from dua_lightning.report.document import Printed, Shown, Table

LONGEST = 40
"""The largest number of lines of a table: those of a page."""
WIDE = 36
"""Texts of more characters are broken into lines."""
ESCAPED: Mapping[str, str] = {
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    '"': r"\symbol{34}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    # A cell that begins with one of these would be taken for an argument of the end of the line before.
    "[": "{[}",
    "]": "{]}",
    "±": r"$\pm$",
    "*": "{*}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}
"""Characters that mean something else to LaTeX."""
EXPONENT = re.compile(r"e([+-])0*(\d+)")
"""The exponent of a number that Python has written."""


@dataclass(frozen=True)
class Made:
    """Seeds, users and commands behind the numbers of tables.

    Args:
        size: The seeds and users, as a sentence.
        commands: The commands that make the runs again.
        more: The number of further commands, in words; empty for none.
    """

    size: str
    commands: Sequence[str]
    more: str = ""


def latex(table: Table, made: Made) -> str:
    r"""Write a table for LaTeX, for `\input`; it needs `\usepackage{booktabs}`.

    Args:
        table: The table; one that does not say what a paper prints is printed whole.
        made: The seeds, users and commands behind its numbers.

    Returns:
        A `table` environment with the label `tab:NAME`.
    """
    printed = _printed(table)
    shown = [name for name in printed.columns if name != printed.parts]
    wide = [name for name in shown if not table.numeric(name) and table.frame[name].astype(str).str.len().max() > WIDE]
    kinds = [
        "r" if table.numeric(name) else f"p{{{0.8 / (1 + len(wide)):.2f}\\linewidth}}" if name in wide else "l"
        for name in shown
    ]
    commands = [rf"\texttt{{{_breakable(command)}}}" for command in made.commands]
    caption = f"{_escaped(_said(table, printed, made))} {_by(commands, made)}"
    lines: list[str] = []
    for part, line in _lines(table, printed):
        if part is not None:
            rule = ["    \\addlinespace"] if lines else []
            lines += [*rule, rf"    \multicolumn{{{len(shown)}}}{{l}}{{\textit{{{_escaped(part)}}}}} \\"]
        lines.append(f"    {' & '.join(_latex(*cell) for cell in line)} \\\\")
    return "\n".join(
        [
            r"% \usepackage{booktabs}",
            r"\begin{table}[tb]",
            r"  \centering",
            rf"  \caption[{{{_escaped(printed.caption.partition(':')[0])}}}]{{{caption}}}",
            rf"  \label{{tab:{re.sub(r'[^-.=A-Za-z0-9]', '-', table.name)}}}",
            rf"  \begin{{tabular}}{{{''.join(kinds)}}}",
            r"    \toprule",
            f"    {' & '.join(map(_escaped, shown))} \\\\",
            r"    \midrule",
            *lines,
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def markdown(table: Table, made: Made) -> str:
    """Write a table for Markdown, with its caption above.

    Args:
        table: The table; one that does not say what a paper prints is printed whole.
        made: The seeds, users and commands behind its numbers.

    Returns:
        The text.
    """
    printed = _printed(table)
    shown = [name for name in printed.columns if name != printed.parts]
    lines = []
    for part, line in _lines(table, printed):
        if part is not None:
            lines.append(f"| *{plain(part)}* |{' |' * (len(shown) - 1)}")
        lines.append(f"| {' | '.join(_markdown(*cell) for cell in line)} |")
    said = f"{plain(_said(table, printed, made))} {_by([f'`{command}`' for command in made.commands], made)}"
    heading = [
        f"| {' | '.join(map(plain, shown))} |",
        f"|{'|'.join(' --: ' if table.numeric(name) else ' --- ' for name in shown)}|",
    ]
    return "\n".join([said, "", *heading, *lines, ""])


def plain(text: object) -> str:
    """Write a text for Markdown, without characters that would be a table's, a heading's or HTML's.

    Args:
        text: The text.

    Returns:
        The text.
    """
    text = writable(str(text), "utf-8").replace("\n", " ")
    for character in "\\|<`*_[]":
        text = text.replace(character, f"\\{character}")
    return text


def _printed(table: Table) -> Printed:
    return table.printed or Printed(table.note.removesuffix("."), dict.fromkeys(table.columns, ""))


def _said(table: Table, printed: Printed, made: Made) -> str:
    """The sentences of the caption, without the command."""
    count, few = len(table.frame), any(table.numeric(name) and name not in printed.best for name in printed.columns)
    said = [
        f"{printed.caption}.",
        f"Behind ±: {printed.spread}." if printed.spread else "",
        f"Bold: the best of {' and of '.join(printed.best) if few else 'each column'}." if printed.best else "",
        f"The first {LONGEST} of {count:,} lines." if count > LONGEST else "",
        made.size,
    ]
    return " ".join(filter(None, said))


def _by(commands: Sequence[str], made: Made) -> str:
    return f"Made by {' and '.join([*commands, made.more] if made.more else commands)}."


def _lines(table: Table, printed: Printed) -> Iterator[tuple[str | None, list[tuple[Shown, str]]]]:
    """Each line's cells, a value with the text of its spread; before the first of a part, the part's name."""
    part = None
    for line in table.lines(LONGEST):
        by = dict(zip(table.columns, line, strict=True))
        new = by[printed.parts].text if printed.parts else None
        cells = [
            (by[name], by[spread].text.lstrip("+") if spread else "")
            for name, spread in printed.columns.items()
            if name != printed.parts
        ]
        yield new if new != part else None, cells
        part = new


def _latex(shown: Shown, spread: str) -> str:
    if not shown.number:
        return _escaped(shown.text)
    if not shown.text:
        return "--"
    number = rf"\mathbf{{{_number(shown.text)}}}" if shown.best else _number(shown.text)
    return rf"${number} \pm {_number(spread)}$" if spread else f"${number}$"


def _number(text: str) -> str:
    """A number for LaTeX's mathematics."""
    text = EXPONENT.sub(lambda found: rf" \times 10^{{{found[1].strip('+')}{found[2]}}}", text)
    return text.replace(",", "{,}")


def _markdown(shown: Shown, spread: str) -> str:
    text = plain(shown.text) + (f" ± {spread}" if spread else "")
    return f"**{text}**" if shown.best else text


def _escaped(text: object) -> str:
    """Text for LaTeX, in one line; characters that it has no letters for are left to the fonts of the paper."""
    written = writable(str(text), "utf-8").encode("utf-8", "backslashreplace").decode()
    escaped = "".join(ESCAPED.get(character, character) for character in " ".join(written.split()))
    # Two of them would be joined into a dash.
    return re.sub("-(?=-)", "-{}", escaped)


def _breakable(command: str) -> str:
    """A command in the font of typewriters, as it is typed; it may go on in the next line where a setting begins."""
    escaped = _escaped(command).replace("'", r"\textquotesingle{}")
    return re.sub(r"([/=,])", r"\1\\allowbreak{}", escaped)
