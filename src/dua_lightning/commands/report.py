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
    given = parser.parse_args(arguments)
    # Help does without pandas and matplotlib, which take a second to load.
    from dua_lightning.report import runs

    out: Path = given.out or given.runs[0] / "report"
    # Standard output has the files' names alone.
    with shown(Terminal(stderr=True)):
        with stage("reading the runs"):
            study = runs.study(given.runs)
        with stage("writing the report"):
            written = write(study, out)
    for path in written:
        Terminal().print(f"  {path}")
    return 0


def write(study: "Study", out: Path) -> list[Path]:
    """Write `report.html`, `report.md`, `figures/` and `tables/`.

    Args:
        study: The runs.
        out: The folder.

    Returns:
        The first two files.

    Raises:
        InputError: The folder cannot be made.
    """
    from dua_lightning.report import pages, sections
    from dua_lightning.report.document import Table
    from dua_lightning.store.files import write_text

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out} cannot be made ({error.strerror}); choose another folder by --out DIR") from error
    document = sections.document(study, out / "figures")
    for section in document.sections:
        for part in section.parts:
            if isinstance(part, Table):
                write_text(out / "tables" / f"{part.name}.csv", part.frame.to_csv(index=False))
    write_text(out / "report.md", pages.markdown(document, out))
    write_text(out / "report.html", pages.html(document))
    return [out / "report.html", out / "report.md"]
