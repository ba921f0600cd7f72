"""The documentation site: every page has its place, it is built without a warning, and nothing in it is fetched."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.test_docs import executed

ROOT = Path(__file__).parents[1]
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


def placed(nav: Any) -> Iterator[str]:
    """The pages of a part of the navigation."""
    if isinstance(nav, str):
        yield nav
        return
    for part in nav if isinstance(nav, list) else nav.values():
        yield from placed(part)


def test_every_page_has_one_place_in_the_navigation() -> None:
    found = sorted(placed(SITE["nav"]))
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in ROOT.glob("docs/**/*.md")]
    notebooks = [f"notebooks/{path.stem}.md" for path in ROOT.glob("docs/notebooks/*.ipynb")]
    studies = [path.relative_to(ROOT).as_posix() for path in ROOT.glob("experiments/**/*.md")]
    beside = [path.name for path in ROOT.glob("*.md") if path.name != "README.md"]
    assert found == sorted([*pages, *notebooks, *studies, *beside])


def test_every_room_of_a_library_user_has_a_page_of_reference() -> None:
    rooms = {path.parent.name for path in ROOT.glob("src/dua_lightning/*/__init__.py")}
    # Kernels are behind the merges and importances, and the other two are the program.
    rooms -= {"kernels", "run", "commands"}
    text = "\n".join(path.read_text(encoding="utf-8") for path in ROOT.glob("docs/reference/*.md"))
    assert rooms <= set(re.findall(r"^::: dua_lightning\.(\w+)", text, re.MULTILINE))


def test_the_page_of_privacy_gets_the_image_back() -> None:
    executed("docs/privacy.md")


def test_the_site_is_built_without_a_warning_and_fetches_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_MKDOCS_2_WARNING", "1")
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    build, config = pytest.importorskip("mkdocs.commands.build"), pytest.importorskip("mkdocs.config")
    monkeypatch.chdir(ROOT)
    build.build(config.load_config("mkdocs.yml", site_dir=str(tmp_path / "site"), strict=True))
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    index = (tmp_path / "site/index.html").read_text(encoding="utf-8")
    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=\"?https?:", index)
    assert (tmp_path / "site/experiments/scenes/transprior_ledger.png").exists()
    assert "dua_lightning.merge.Mode" in (tmp_path / "site/reference/merge.html").read_text(encoding="utf-8")
