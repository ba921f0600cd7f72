"""The wheel carries the configuration and works from any directory."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from dua_lightning.__main__ import CONF
from dua_lightning.nets.weights import PRETRAINED
from tests.helpers.cli import TINY

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="needs the checkout")
def test_a_wheel_runs_from_any_directory(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("dua_lightning/conf/")}
        archive.extractall(tmp_path / "site")
    assert packed == {f"dua_lightning/conf/{p.relative_to(CONF)}" for p in CONF.rglob("*.yaml")}
    assert (tmp_path / "site" / "dua_lightning" / "report" / "page.css").exists()
    assert len(list((tmp_path / "site" / "dua_lightning" / "published").glob("*.csv"))) == 3
    weights = tmp_path / "site" / "dua_lightning" / "nets" / "pretrained"
    assert {path.name for path in weights.iterdir()} == {path.name for path in PRETRAINED.iterdir()}
    (tmp_path / "work").mkdir()
    # The unpacked wheel comes before the checkout on the path.
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from dua_lightning.__main__ import *; print(CONF); main()"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "site"), *TINY, "method=ewc", "logger=none"],
        cwd=tmp_path / "work",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == str(tmp_path / "site" / "dua_lightning" / "conf")
    assert list((tmp_path / "work" / "outputs").rglob("records.csv"))
