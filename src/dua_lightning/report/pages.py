"""A report as one HTML file that needs nothing else, and as Markdown with its figures and CSV files beside it."""

import base64
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from dua_lightning.report.characters import writable
from dua_lightning.report.document import Document
from dua_lightning.report.paper import plain

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""A browser may load nothing from anywhere."""
LONGEST = 500
"""The largest number of lines of a table on the page; all of them are in its CSV file."""
LONGEST_MARKDOWN = 60
"""The largest number of lines of a table in Markdown."""
WIDE = 60
"""A text of more characters in a table may be broken into lines."""


def html(document: Document) -> str:
    """Write the page: figures, style and the sorting of tables are in it, and every text is escaped.

    Args:
        document: The report.

    Returns:
        The HTML.
    """
    style, script = (Path(__file__).with_name(f"page.{end}").read_text(encoding="utf-8") for end in ("css", "js"))
    given = {"policy": POLICY, "longest": LONGEST, "wide": WIDE, "style": style, "script": script}
    return _environment().get_template("page.html.jinja").render(document=document, **given)


def markdown(document: Document, folder: Path) -> str:
    """Write the report as Markdown.

    Args:
        document: The report.
        folder: The folder that it will lie in, with the tables as `tables/NAME.csv` below it.

    Returns:
        The text.
    """
    given = {"longest": LONGEST_MARKDOWN, "folder": folder}
    return _environment().get_template("page.md.jinja").render(document=document, **given)


def _environment() -> Environment:
    found = Environment(
        loader=PackageLoader("dua_lightning.report", ""),
        autoescape=select_autoescape(["html.jinja"]),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        finalize=_shown,
    )
    found.filters |= {"base64": lambda path: base64.b64encode(path.read_bytes()).decode(), "plain": plain}
    return found


def _shown(value: object) -> object:
    """A value without characters that turn the direction of what follows, or that a page cannot have."""
    return writable(value, "utf-8") if isinstance(value, str) and not isinstance(value, Markup) else value
