"""The version of the code changes with every module that a stage runs, and with nothing else."""

from pathlib import Path

import pytest
import torch

from dua_lightning.store import versions as code
from tests.test_imports import own, room

STAGES = {"experts": code.EXPERTS, "priors": code.PRIORS, "results": code.RESULTS}
HARMLESS = {"errors", "files", "store", "tensorfile", "code"}
"""Words, files and digests: they change no bit of what a stage makes."""
OF_LATER_STAGES = {"experts": {"adapt", "merge"}, "priors": {"adapt", "merge", "evaluation"}, "results": set()}
"""What `server` and `user` import for what they do after this stage."""


def modules(parts: tuple[str, ...]) -> set[str]:
    paths = [name for part in parts for name, _ in code._sources(code.files("dua_lightning").joinpath(part), part)]
    return {path.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for path in paths}


@pytest.mark.parametrize("stage", STAGES)
def test_whatever_a_stage_imports_counts(stage: str) -> None:
    counted = modules(STAGES[stage])
    later = HARMLESS | OF_LATER_STAGES[stage]
    reached = {other for module in counted for other in own(module) if room(other) not in later}
    # A package alone is named beside each module that is imported from it.
    assert {module for module in reached - counted if module != "data"} == set()


def test_the_transforms_of_users_count_where_pictures_are_digested_unmade() -> None:
    assert own("data.corruptions") - HARMLESS - {"data"} <= modules(code.CORRUPTIONS)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("a.py", "b.py", "sub/c.py", "sub/deep/d.py", "sub/notes.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(f"text of {name}")
    monkeypatch.setattr(code, "files", lambda _: tmp_path)
    return tmp_path


def fresh() -> str:
    code.version.cache_clear()
    return code.version(("a.py", "sub"))


@pytest.mark.parametrize("name", ["a.py", "sub/c.py", "sub/deep/d.py", "sub/new.py"])
def test_a_change_of_a_module_is_another_version(package: Path, name: str) -> None:
    before = fresh()
    (package / name).write_text("another text")
    assert fresh() != before


@pytest.mark.parametrize("name", ["b.py", "sub/notes.md"])
def test_a_change_elsewhere_is_the_same_version(package: Path, name: str) -> None:
    before = fresh()
    (package / name).write_text("another text")
    assert fresh() == before


def test_moving_text_between_modules_and_another_torch_are_other_versions(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = fresh()
    monkeypatch.setattr(torch, "__version__", "0.0")
    assert fresh() != before
    monkeypatch.undo()
    monkeypatch.setattr(code, "files", lambda _: package)
    assert fresh() == before
    (package / "sub" / "c.py").rename(package / "sub" / "e.py")
    assert fresh() != before
    code.version.cache_clear()
