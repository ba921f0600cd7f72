"""The page in a real browser: nothing on its console, tables that sort when they are clicked, figures that show."""

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dua_lightning.commands import report as reporting
from dua_lightning.report.runs import study
from tests.helpers.cli import TINY
from tests.helpers.process import spawn
from tests.report import folders

NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next((path for name in NAMES if (path := shutil.which(name))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="needs Debian's chromium; apt install chromium"),
]

# Added behind the page's own script: clicks every heading twice as a reader does, and leaves what it sees in the page.
READER = """<script>
addEventListener("load", () => {
  const column = (table, n) => [...table.tBodies[0].rows].map((row) => row.cells[n].textContent);
  const tables = {};
  for (const table of document.querySelectorAll("table")) {
    tables[table.id] = [...table.tHead.rows[0].cells].map((heading, n) => {
      const seen = { number: heading.classList.contains("number"), before: column(table, n) };
      for (const time of ["first", "second"]) {
        heading.querySelector("button").click();
        seen[time] = { order: heading.getAttribute("aria-sort"), cells: column(table, n) };
      }
      return seen;
    });
  }
  const figures = [...document.images].map((i) => [i.alt, i.complete, i.naturalWidth, i.clientWidth]);
  const result = document.createElement("pre");
  result.id = "result";
  result.textContent = JSON.stringify({ tables, figures, wide: document.documentElement.scrollWidth > innerWidth });
  document.body.append(result);
});
</script></body>"""

# Browsers make no window of 400 pixels, and a frame of any width; both have the reader's colours.
FRAME = """<!doctype html><style>:root {{ color-scheme: {scheme} }}</style>
<iframe src="page.html" width="400" height="900"></iframe><script>
addEventListener("load", () => {{
  const page = document.querySelector("iframe").contentDocument;
  const boxes = [...page.querySelectorAll(".sheet, figure")];
  const style = page.defaultView.getComputedStyle(page.body);
  const result = document.createElement("pre");
  result.id = "result";
  result.textContent = JSON.stringify({{
    page: page.documentElement.scrollWidth,
    boxes: Math.max(...boxes.map((box) => box.getBoundingClientRect().right)),
    figures: [...page.images].map((image) => image.clientWidth),
    colours: [style.color, style.backgroundColor],
  }});
  document.body.append(result);
}});
</script>"""


@dataclass(frozen=True)
class Seen:
    """The page as the reader saw it, and what the browser said on its console."""

    tables: dict[str, list[dict[str, Any]]]
    figures: list[tuple[str, bool, int, int]]
    wide: bool
    console: list[str]


def browse(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1200,5000")
    return subprocess.run(
        [str(BROWSER), *options, f"--user-data-dir={home}", "--virtual-time-budget=5000", *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        # Without a network, and with a home of its own.
        env={**os.environ, "HOME": str(home), "http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"},
    )


def read(page: Path, home: Path, extra: str = "") -> Seen:
    """The page as it is, with the reader behind it."""
    watched = page.with_name("watched.html")
    watched.write_text(page.read_text(encoding="utf-8").replace("</body>", extra + READER), encoding="utf-8")
    done = browse("--enable-logging=stderr", "--dump-dom", watched.as_uri(), home=home)
    return Seen(**result(done.stdout), console=[line for line in done.stderr.splitlines() if ":CONSOLE" in line])


def result(page: str) -> dict[str, Any]:
    """The values that a script has left in a page."""
    (found,) = re.findall(r'<pre id="result">(.*?)</pre>', page, re.DOTALL)
    for code, character in (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")):
        found = found.replace(code, character)
    left: dict[str, Any] = json.loads(found)
    return left


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a real run: every row of the table, three seeds, on tiny data."""
    folder = tmp_path_factory.mktemp("browser")
    store = f"paths.store_dir={folder / 'store'}"
    done = spawn(*TINY, "method=all", "seed=[1,2,3]", f"paths.output_dir={folder / 'run'}", store, cwd=folder)
    assert done.status == 0, done.err
    done = spawn("report", str(folder / "run"), cwd=folder)
    assert done.status == 0, done.err
    return folder / "run" / "report" / "report.html"


@pytest.fixture(scope="module")
def seen(page: Path, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    return read(page, tmp_path_factory.mktemp("home"))


def test_the_console_is_silent(seen: Seen) -> None:
    assert seen.console == []


@pytest.mark.parametrize("extra", ["<script>nothing.at.all</script>", '<img src="https://example.org/a.png">'])
def test_the_console_would_tell_of_a_fault_or_of_something_loaded(extra: str, page: Path, tmp_path: Path) -> None:
    assert read(page, tmp_path, extra).console


def test_every_figure_shows(seen: Seen) -> None:
    assert len(seen.figures) == 7
    for title, complete, natural, shown in seen.figures:
        assert title
        assert complete
        assert natural > 300
        assert shown > 300


def test_the_page_is_no_wider_than_its_window(seen: Seen) -> None:
    assert not seen.wide


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_on_a_telephone_by_day_and_by_night(scheme: str, page: Path, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(page.read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "frame.html").write_text(FRAME.format(scheme=scheme), encoding="utf-8")
    dark = ("--blink-settings=preferredColorScheme=0",) if scheme == "dark" else ()
    frame = (tmp_path / "frame.html").as_uri()
    done = browse("--allow-file-access-from-files", *dark, "--dump-dom", frame, home=tmp_path)
    found = result(done.stdout)
    # The page does not move sideways: tables and figures do, within their own boxes.
    assert found["page"] <= 400
    assert found["boxes"] <= 400
    assert min(found["figures"]) > 500
    ink, paper = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in found["colours"])
    assert (ink > paper) == (scheme == "dark")
    assert abs(ink - paper) > 3 * 150


def test_every_column_of_every_table_sorts_both_ways(seen: Seen) -> None:
    assert set(seen.tables) == {
        *("ledger", "rows", "differences", "extremes", "users", "by_user", "tasks"),
        *("training", "adaptation", "settings"),
    }
    for columns in seen.tables.values():
        for column in columns:
            orders = [column[time]["order"] for time in ("first", "second")]
            assert orders == (["descending", "ascending"] if column["number"] else ["ascending", "descending"])
            for time in ("first", "second"):
                cells = column[time]["cells"]
                assert sorted(cells) == sorted(column["before"]), "no line is lost"
                known = [cell for cell in cells if cell]
                assert cells == known + [""] * (len(cells) - len(known)), "empty cells come last"
                if column["number"]:
                    values = [float(cell.replace(",", "")) for cell in known]
                    assert values == sorted(values, reverse=column[time]["order"] == "descending")
            if not column["number"] and len(set(column["before"])) > 1:
                assert column["first"]["cells"] != column["second"]["cells"]


def test_many_lines_and_odd_names_sort_too(tmp_path: Path) -> None:
    names = ("<i>", "&amp;", 'a"b')
    found = [record for n, label in enumerate(names) for record in folders.of("racl", label=label, accuracy=n / 7)]
    (path, _) = reporting.write(study([folders.run(tmp_path / "run", found)]), tmp_path / "out")
    seen = read(path, tmp_path / "home")
    assert seen.console == []
    (row, accuracy, *_) = seen.tables["rows"]
    assert set(row["before"]) == set(names)
    assert accuracy["first"]["cells"] == ["0.29", "0.14", "0.00"]


def test_a_screenshot_has_something_on_it(page: Path, tmp_path: Path) -> None:
    browse(f"--screenshot={tmp_path / 'page.png'}", page.as_uri(), home=tmp_path)
    with Image.open(tmp_path / "page.png") as picture:
        assert picture.size == (1200, 5000)
        assert len(picture.convert("RGB").getcolors(2**24) or []) > 100
