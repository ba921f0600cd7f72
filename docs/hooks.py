"""Hooks of MkDocs: the site has the same links as the repository, and shows what lies outside docs/ too."""

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
BESIDE = ("*.md", "experiments/**/*.md", "experiments/**/*.png", "experiments/**/*.csv", "conf/**/*.yaml")
"""Files outside docs/ that pages link to; they keep their paths. Links to README.md lead to the front page."""


def on_config(config: MkDocsConfig) -> None:
    """Make anchors as code hosts do, so that one link serves both."""
    config.mdx_configs["toc"]["slugify"] = anchor


def anchor(heading: str, separator: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", separator)


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add pages and figures from outside docs/, and the notebooks as pages."""
    for path in sorted(found for pattern in BESIDE for found in ROOT.glob(pattern)):
        name = path.relative_to(ROOT).as_posix()
        if name != "README.md":
            files.append(File.generated(config, name, abs_src_path=str(path)))
    for path in sorted(ROOT.glob("docs/notebooks/*.ipynb")):
        blocks = [block(cell) for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]
        page = "\n\n".join([*blocks, f"[This notebook as a file]({path.name})"])
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=page))


def block(cell: dict[str, Any]) -> str:
    text = "".join(cell["source"])
    return f"```python\n{text}\n```" if cell["cell_type"] == "code" else text


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the repository into links between pages of the site."""
    here, source = page.file.src_uri, page.file.abs_src_path
    # A notebook's page is no file.
    folder = Path(source).relative_to(ROOT).parent.as_posix() if source else "docs/notebooks"

    def turned(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, link[1])).removeprefix("docs/")
        name, ending = posixpath.splitext(target)
        if target == "README.md":
            target = "index.md"
        elif ending == ".ipynb" and here != f"{name}.md":
            target = f"{name}.md"
        return f"]({posixpath.relpath(target, posixpath.dirname(here))}{link[2] or ''})"

    return re.sub(r"\]\((?!\w+:)([^)#\s]+)(#[^)]*)?\)", turned, markdown)
