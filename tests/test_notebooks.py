"""The notebooks run as they are."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

NOTEBOOKS = Path(__file__).parents[1] / "docs" / "notebooks"


def cells(name: str) -> list[str]:
    """The code cells of a notebook."""
    found = json.loads((NOTEBOOKS / name).read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in found if cell["cell_type"] == "code"]


def test_photographs_become_models_of_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    with torch.random.fork_rng():
        for place, code in enumerate(cells("your_photographs.ipynb")):
            exec(compile(code, f"cell {place}", "exec"), scope)
    printed = capsys.readouterr().out
    right = [float(line.split(": ")[1].split()[0]) for line in printed.splitlines() if " % right" in line]
    # Chance is a third.
    assert len(right) == 2
    assert min(right) > 50
    models = scope["models"]
    assert isinstance(models, dict)
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
