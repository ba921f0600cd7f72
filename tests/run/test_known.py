"""Settings that nothing reads are refused, and nothing else is; messages name settings that there are."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from dua_lightning.__main__ import CONF
from dua_lightning.errors import InputError
from dua_lightning.run import known
from dua_lightning.run.known import CHOICES, GROUPS, VALUES, names, nearest, refuse_unknown, refuse_unknown_of_hydra


def config(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(overrides))


def test_the_tables_name_everything_that_there_is() -> None:
    assert {*CHOICES, *VALUES, *GROUPS, "callbacks"} == {*config("data=transprior", "data/images=photos")}


FINE = {
    "an experiment": ("+experiment=transprior",),
    "pictures": ("+experiment=catprior", "data/images=photos", "adapt=adabn", "logger=none", "scheduler=cosine"),
    "own pictures": ("data=own_users", "data.images.root=x", "fidelity=released", "logger=wandb", "callbacks=none"),
    "the population": ("+experiment=population", "importance=fim", "engine=loky", "logger=tensorboard"),
    "an argument that conf does not name": ("+trainer.barebones=false", "logger=wandb", "logger.mode=offline"),
    "a callback": (
        "+callbacks.lr._target_=lightning.pytorch.callbacks.LearningRateMonitor",
        "+callbacks.lr.log_momentum=true",
        "callbacks.plateau=null",
    ),
    "something to refer to": ("+mine.rate=3", "+mine.seeds=[1,2]", "optimizer.lr=${mine.rate}", "seed=${.mine.seeds}"),
    "a node within a node": ("+trainer.strategy={_target_: lightning.pytorch.strategies.DDPStrategy}",),
    "by force": ("++seed=2", "++adapt.name=x"),
}


@pytest.mark.parametrize("case", FINE)
def test_what_is_read_is_not_refused(case: str) -> None:
    overrides = ["++" + text.lstrip("+") if "strategy" in text else text for text in FINE[case]]
    refuse_unknown(config(*overrides), [CONF])


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (("+mine.rate=3", "name=mine.rate"), "mine"),
        (("+fidelity.augmnt=true",), "fidelity.augmnt"),
        (("+trainer.plugins=[{_target_: builtins.print, x: 1}]",), "trainer.plugins"),
        (("+store.experts=true",), "store.experts"),
        (("+method.lable=x",), "method.lable"),
        (("+callbacks.plateau.patince=1",), "callbacks.plateau.patince"),
        (("data=own_users", "data.images.root=x", "+data.images.siz=1"), "data.images.siz"),
    ],
)
def test_what_nothing_reads_is_refused_by_its_name(overrides: tuple[str, ...], name: str) -> None:
    given = ["++" + text.lstrip("+") if "plugins" in text else text for text in overrides]
    with pytest.raises(InputError, match=rf"^{name}"):
        refuse_unknown(config(*given), [CONF])


def test_what_hydra_does_not_know_is_refused_where_it_was_added() -> None:
    fine = ("hydra/launcher=processes", "hydra.run.dir=x", "hydra.verbose=true", "+hydra.job.env_set.X=1")
    refuse_unknown_of_hydra([*fine, "+hydra.launcher.n_jobs=2", "+hydra.callbacks.x._target_=y", "~hydra.callbacks"])
    for override, message in (
        ("+hydra.foo=1", r"^hydra.foo is not a setting; --cfg"),
        ("++hydra.job.chdirr=true", r"^hydra.job.chdirr is not a setting; did you mean hydra.job.chdir\?"),
    ):
        with pytest.raises(InputError, match=message):
            refuse_unknown_of_hydra([*fine, override])


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("modle", "model"),
        ("adapt.lrr", "adapt.lr"),
        ("lr", "optimizer.lr"),
        ("trainer.lr", "optimizer.lr"),
        ("q", None),
    ],
)
def test_the_nearest_name_is_one_that_there_is(name: str, meant: str | None) -> None:
    assert nearest(name, ["seed", "model", "model.width", "optimizer.lr", "adapt.lr", "adapt"]) == meant


PACKAGE = Path(known.__file__).parents[1]
NAMED = re.compile(rf"(?<![\w.{{}}/:-])((?:{'|'.join([*CHOICES, *GROUPS, 'callbacks'])})(?:[./][a-z_]+)*)(=\w*)?")
"""A setting with a value or with a dot, in a text."""


def hints() -> Iterator[tuple[str, str]]:
    """Every setting that a text of the program names, and the value that it gives, empty where the program fills it."""
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        # Docstrings name modules too.
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                for name, value in NAMED.findall(node.value) if " " in node.value else ():
                    if value or "." in name:
                        yield name, value[1:]


def settings_of_conf() -> set[str]:
    found: set[str] = set()
    for path in CONF.rglob("*.yaml"):
        text, group = path.read_text(encoding="utf-8"), path.relative_to(CONF).parent.as_posix()
        whole = "@package _global_" in text or group == "."
        found |= {*names(yaml.safe_load(text) or {}, "" if whole else f"{group.replace('/', '.')}.")}
    return found


def test_messages_name_settings_and_choices_that_there_are() -> None:
    there, wrong, seen = settings_of_conf(), [], 0
    for name, value in hints():
        seen += 1
        is_group = (CONF / name).is_dir()
        if not is_group and name not in there:
            wrong.append(name)
        elif is_group and value.islower() and not (CONF / name / f"{value}.yaml").exists():
            wrong.append(f"{name}={value}")
    assert seen > 10
    assert wrong == []
