"""The pages of the repository, and the commands in them."""

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]


def under(*patterns: str) -> list[str]:
    """The files that patterns find, by their path from the top."""
    return sorted({path.relative_to(ROOT).as_posix() for pattern in patterns for path in ROOT.glob(pattern)})


PAGES = under("*.md", ".github/**/*.md", "docs/**/*.md")
STUDIES = under("experiments/**/*.md")
ALL = [*PAGES, *STUDIES, *under("docs/**/*.ipynb", "conf/**/*.yaml")]
"""Everything that tells a reader of commands."""

SHELL = ("sh", "bash", "shell", "console")
"""The languages of blocks in which every line is a command."""


@dataclass(frozen=True)
class Command:
    """A program and its arguments, and the variables that are set for it."""

    words: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict, compare=False)
    certain: bool = True
    """Whether it cannot be anything but a command: it is a line of a shell's block."""

    def __str__(self) -> str:
        return shlex.join(self.words)


def text(page: str) -> str:
    """The text of a page; of a notebook, the cells that are no code."""
    found = (ROOT / page).read_text(encoding="utf-8")
    if page.endswith(".ipynb"):
        found = "\n\n".join(
            "".join(cell["source"]) for cell in json.loads(found)["cells"] if cell["cell_type"] != "code"
        )
    return found


def blocks(page: str, *languages: str) -> list[str]:
    """The code blocks of a page in some languages, without the indentation that tabs and notes need."""
    fence = rf"^( *)```(?:{'|'.join(languages)})\b[^\n]*\n(.*?)^\1```"
    found = re.findall(fence, text(page), re.DOTALL | re.MULTILINE)
    return [re.sub(rf"^{indent}", "", code, flags=re.MULTILINE) for indent, code in found]


def files(page: str) -> dict[str, str]:
    """The files that a page asks its reader to make: blocks whose first line is a comment with their path."""
    made = (re.match(r"# (\S+/\S+\.\w+)\n", code) for code in blocks(page, "python", "yaml"))
    return {match[1]: match.string[match.end() :] for match in made if match}


def commands(page: str) -> list[Command]:
    """The command lines of a page, each once: in blocks, in comments of YAML, and between backticks."""
    whole = text(page)
    found: list[Command] = []
    if page.endswith(".yaml"):
        # Comments are text, and what they indent are commands.
        whole = re.sub("^#", " ", whole, flags=re.MULTILINE)
    for block in blocks(page, *SHELL):
        found += [c for line in lines(block) for c in parsed(line.removeprefix("$ "))]
    plain = re.sub(r"^( *)```.*?^\1```", "", whole, flags=re.DOTALL | re.MULTILINE)
    indented = "\n".join(line[4:] if line.startswith("    ") else "" for line in plain.splitlines())
    found += [c for line in lines(indented) for c in parsed(line.removeprefix("$ "), certain=False)]
    prose = re.sub(r"^    .*", "", plain, flags=re.MULTILINE)
    found += [c for code in re.findall(r"`([^`]+)`", prose) for c in parsed(" ".join(code.split()), certain=False)]
    return list(dict.fromkeys(found))


def lines(block: str) -> list[str]:
    """The lines of a block of commands; one that ends in a backslash goes on."""
    return [line for line in re.sub(r" *\\\n\s*", " ", block).splitlines() if line.strip()]


def parsed(line: str, certain: bool = True) -> Iterator[Command]:
    """The commands of a line: those that `&&`, `;` and `|` divide, and those within `$(..)`."""
    for code in re.findall(r"\$\(([^()]*)\)", line):
        yield from parsed(code, certain)
    outer = re.sub(r"\$\([^()]*\)|(?<= )\d?>{1,2} *\S+", "", line)
    lexer = shlex.shlex(outer, posix=True, punctuation_chars="&;|")
    lexer.whitespace_split = True
    try:
        words = list(lexer)
    except ValueError:
        # An apostrophe of prose.
        assert not certain, line
        return
    for one in divided(words):
        first = next((k for k, word in enumerate(one) if not re.match(r"[A-Za-z_]\w*=", word)), len(one))
        if one[first:]:
            yield Command(tuple(one[first:]), dict(word.split("=", 1) for word in one[:first]), certain)


def divided(words: list[str]) -> Iterator[list[str]]:
    """The words between the signs that divide commands."""
    one: list[str] = []
    for word in [*words, ";"]:
        if set(word) <= set("&;|"):
            yield one
            one = []
        else:
            one.append(word)
