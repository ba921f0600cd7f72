"""The notebooks run as they are, and show what they say."""

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dua_lightning.report.statistics import interval

NOTEBOOKS = Path(__file__).parents[1] / "docs" / "notebooks"


def cells(name: str) -> list[str]:
    """The code cells of a notebook."""
    found = json.loads((NOTEBOOKS / name).read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in found if cell["cell_type"] == "code"]


def executed(name: str) -> dict[str, Any]:
    """The names that the code of a notebook leaves."""
    scope: dict[str, Any] = {}
    with torch.random.fork_rng():
        for place, code in enumerate(cells(name)):
            exec(compile(code, f"{name}, cell {place}", "exec"), scope)
    return scope


def test_photographs_become_models_of_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    scope = executed("your_photographs.ipynb")
    printed = capsys.readouterr().out
    right = [float(line.split(": ")[1].split()[0]) for line in printed.splitlines() if " % right" in line]
    # Chance is a third.
    assert len(right) == 2
    assert min(right) > 50
    models = scope["models"]
    assert set(models) == {"ann", "bob", "carl"}
    for user, of_user in models.items():
        for task, state in of_user.items():
            kept = load_file(tmp_path / f"{user}-{task}.safetensors")
            assert all(torch.equal(kept[name], tensor) for name, tensor in state.items())
    assert all(name in printed for name in ("IMG_0000.JPG", "IMG_0001.JPG", "IMG_0002.JPG"))


def test_the_main_cell_has_less_than_thirty_lines() -> None:
    main = next(code for code in cells("your_photographs.ipynb") if "experts.append" in code)
    _, _, body = main.partition("torch.manual_seed")
    assert len([line for line in body.splitlines() if line.strip()]) < 30


@pytest.mark.slow
def test_a_network_of_ones_own_has_exact_importances_and_is_adapted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        scope = executed("your_network.ipynb")
    finally:
        log = logging.getLogger("dua_lightning")
        log.handlers = [handler for handler in log.handlers if type(handler).__name__ != "Heard"]
    printed = capsys.readouterr().out
    off = [float(text) for text in re.findall(r"largest difference (\S+) of", printed)]
    assert len(off) == 2
    assert max(off) < 1e-4
    # The first network needs no slower way; the second one does, and says so once.
    assert printed.count("not needed") == 1
    assert len(scope["heard"]) == 1
    expert, merged, adapted = (sum(row) for row in scope["table"].values())
    assert adapted > max(expert, merged) + 20
    assert (tmp_path / "your_network.png").stat().st_size > 10_000


@pytest.mark.slow
def test_an_adaptation_of_ones_own_is_chosen_on_simulated_users_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    scope = executed("your_own_phi.ipynb")
    names, scores = {user.user for user in scope["simulated"]}, scope["scores"]
    assert not names & {user.user for user in scope["data"].users}
    assert scope["tried"].shape == (len(names), len(scope["STRENGTHS"]))
    assert all(found.shape == (12,) for found in scores.values())
    # Users have few categories, where AdaBN loses; the notebook says so.
    gain = scores["Favour"] - scores["AdaBN"]
    assert gain.mean() > interval(gain).half
    assert scores["Favour"].mean() > scores["nothing"].mean() - 3
    assert capsys.readouterr().out.count("; helped ") == 3
    assert (tmp_path / "your_own_phi.png").stat().st_size > 10_000


def test_notebooks_are_stored_without_results() -> None:
    paths = list(NOTEBOOKS.glob("*.ipynb"))
    assert len(paths) >= 3
    for path in paths:
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            assert not cell.get("outputs"), path
            assert cell.get("execution_count") is None, path
