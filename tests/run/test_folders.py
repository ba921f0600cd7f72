"""The folders of runs and sweeps: a new one is nobody else's, a named one is held, and names are quoted for Hydra."""

import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from dua_lightning.__main__ import CONF
from dua_lightning.run.folders import LOCK, claim, literal, quoted
from dua_lightning.run.stopping import command

SIGNS = "ab1 =,'\"()[]{}$:\\~/.-_#%&@!*?é中\U0001f600\t"
TEXTS = st.text(st.sampled_from(SIGNS) | st.characters(codec="utf-8"), max_size=12)
ODD = st.sampled_from(
    ("", "null", "True", "1e3", "${", "\\${a}", "\\", "a\\", "'", '"', "~/x", "[a, b]", "{a: 1}", "a b")
)


@settings(max_examples=500, deadline=None, derandomize=True, database=None)
@given(TEXTS | ODD)
def test_a_quoted_text_is_read_as_itself_by_shell_hydra_and_omegaconf(text: str) -> None:
    given = shlex.split(command([f"paths.output_dir={quoted(text)}"]))[1:]
    (override,) = OverridesParser.create().parse_overrides(given)
    assert not override.is_sweep_override()
    for value in (override.value(), literal(text)):
        assert OmegaConf.create({"folder": value}).folder == text


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(overrides), return_hydra_config=True)


DATED = {
    "the default": ("hydra.run.dir", ()),
    "a name with the time": ("hydra.run.dir", ("paths.output_dir='a b/${now:%Y}'",)),
    "a name with the time, of a sweep": ("hydra.sweep.dir", ("paths.output_dir='a b/${now:%Y}'",)),
    "Hydra's own": ("hydra.run.dir", ("hydra.run.dir=a/${now:%Y}",)),
    "Hydra's own, of a sweep": ("hydra.sweep.dir", ("hydra.sweep.dir=a/${now:%Y}",)),
}


@pytest.mark.parametrize(("setting", "given"), DATED.values(), ids=DATED)
def test_a_new_folder_is_nobody_elses_and_the_run_its_jobs_and_its_next_start_know_it(
    setting: str, given: tuple[str, ...], here: Path
) -> None:
    found = []
    for _ in range(3):
        cfg = composed(*given)
        name = claim(cfg, setting)
        assert name is not None
        assert name.partition("=")[0] == (setting if given and given[0].startswith("hydra") else "paths.output_dir")
        folder = OmegaConf.select(cfg, setting)
        assert (Path(folder) / LOCK).exists()
        assert OmegaConf.select(composed(*given, name), setting) == folder
        if given:
            # A job of a sweep is composed of these.
            again = composed(*cfg.hydra.overrides.hydra, *cfg.hydra.overrides.task)
            assert OmegaConf.select(again, setting) == folder
        assert OmegaConf.create({"value": OverridesParser.create().parse_override(name).value()}).value == folder
        found.append(folder)
    assert len({*found}) == 3
    if given:
        assert found[1:] == [f"{found[0]}_1", f"{found[0]}_2"]


def test_a_named_folder_is_used_again_as_it_was_given(here: Path) -> None:
    for override in ("paths.output_dir=out/", "paths.output_dir=out", "hydra.run.dir=./out"):
        cfg = composed(override)
        assert claim(cfg, "hydra.run.dir") is None
        assert [*cfg.hydra.overrides.task, *cfg.hydra.overrides.hydra] == [override]
    assert [path.name for path in here.iterdir()] == ["out"]


def test_a_folder_in_the_home_folder_lies_there_for_the_jobs_too(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(here / "my home"))
    cfg = composed("paths.output_dir='~/out'")
    claim(cfg, "hydra.sweep.dir")
    assert Path(cfg.paths.output_dir) == Path(cfg.hydra.sweep.dir) == here / "my home" / "out"
    assert composed(*cfg.hydra.overrides.task).paths.output_dir == str(here / "my home" / "out")
    assert [path.name for path in here.iterdir()] == ["my home"]
