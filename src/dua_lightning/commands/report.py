"""`dua report`: one page of everything that runs and sweeps found, and the same as Markdown and CSV."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from dua_lightning.errors import InputError
from dua_lightning.progress import shown, stage
from dua_lightning.report.terminal import Terminal

if TYPE_CHECKING:
    from dua_lightning.report.runs import Study

PRINTED = {"latex": "tex", "markdown": "md"}
"""The forms of tables for a paper, and the ends of their files' names."""
SPREADS = ("std", "seeds", "users", "iterations")
"""The spreads that may stand behind accuracies; see `sections.document`."""


class Parser(argparse.ArgumentParser):
    """A parser that refuses words that it cannot read in one line, as the rest of the program does."""

    def error(self, message: str) -> NoReturn:
        """Refuse the command line.

        Args:
            message: The reason.

        Raises:
            InputError: Always.
        """
        raise InputError(f"{message}; {self.prog} --help shows how")


def main(arguments: Sequence[str]) -> int:
    """Write the report and print its files.

    Args:
        arguments: The words of the command line.

    Returns:
        The exit status.

    Raises:
        InputError: A folder cannot be read or written.
    """
    parser = Parser(prog="dua report", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_OR_SWEEP", help="the folder of a run or of a sweep")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where to write (default: `report` in the first folder)"
    )
    parser.add_argument("--latex", action="store_true", help="write the tables for LaTeX too, as tables/NAME.tex")
    parser.add_argument("--markdown", action="store_true", help="write the same tables as Markdown, as tables/NAME.md")
    parser.add_argument("--pdf", action="store_true", help="draw the figures as PDF too, beside their SVG")
    parser.add_argument(
        "--spread",
        choices=SPREADS,
        help="what stands behind the accuracies of --latex and --markdown: their standard deviation over seeds, or "
        "half their 95 %% interval over seeds, users or iterations (default: over the first that there are several of)",
    )
    given = parser.parse_args(arguments)
    # Help does without pandas and matplotlib, which take a second to load.
    from dua_lightning.report import runs

    out: Path = given.out or given.runs[0] / "report"
    # Standard output has the files' names alone.
    with shown(Terminal(stderr=True)):
        with stage("reading the runs"):
            study = runs.study(given.runs)
        with stage("writing the report"):
            forms = [form for form in PRINTED if getattr(given, form)]
            written = write(study, out, forms, ("svg", "pdf") if given.pdf else ("svg",), given.spread)
    for path in written:
        Terminal().print(f"  {path}")
    return 0


def write(
    study: "Study",
    out: Path,
    printed: Sequence[str] = (),
    figures: Sequence[str] = ("svg",),
    spread: str | None = None,
) -> list[Path]:
    """Write `report.html`, `report.md`, `figures/` and `tables/`.

    Args:
        study: The runs.
        out: The folder.
        printed: The forms of tables for a paper, some of `PRINTED`.
        figures: The ends of the names of the figures' files, `svg` first.
        spread: What stands behind accuracies there; see `sections.document`.

    Returns:
        The first two files, and the tables for a paper.

    Raises:
        InputError: The folder cannot be made, or there is no such spread.
    """
    from dua_lightning.report import pages, paper, sections
    from dua_lightning.report.document import Table
    from dua_lightning.store.files import write_text

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out} cannot be made ({error.strerror}); choose another folder by --out DIR") from error
    document = sections.document(study, out / "figures", figures, spread)
    tables = [part for section in document.sections for part in section.parts if isinstance(part, Table)]
    for table in tables:
        write_text(out / "tables" / f"{table.name}.csv", table.frame.to_csv(index=False))
    made, files = sections.made(study), []
    for form in printed:
        for table in tables:
            if table.printed is not None:
                files.append(out / "tables" / f"{table.name}.{PRINTED[form]}")
                write_text(files[-1], getattr(paper, form)(table, made))
    write_text(out / "report.md", pages.markdown(document, out))
    write_text(out / "report.html", pages.html(document))
    return [out / "report.html", out / "report.md", *files]
