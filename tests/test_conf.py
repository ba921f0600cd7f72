"""The configuration: every choice composes and builds what the paper's table of rows says."""

from itertools import product
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from dua_lightning.__main__ import CONF
from dua_lightning.adapt import Finetune, Unchanged
from dua_lightning.importance import MAS, Fisher, Uniform
from dua_lightning.merge import Each, Last, Mode
from dua_lightning.methods import Anchor, Distil, Free
from dua_lightning.rows import make


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


METHODS = [name for name in choices("method") if name != "all"]

# The rows of the paper as combinations: label, regulariser, who measures psi with what, chi, phi.
L2 = Anchor(Uniform(), 1e-3, accumulate=False)
ROWS = {
    ("racl", "mas", "none"): ("MAS-RACL", L2, "user", MAS(), Mode(), Unchanged()),
    ("racl", "fim", "none"): ("FIM-RACL", L2, "user", Fisher("true", seed=1), Mode(), Unchanged()),
    ("imm", "mas", "none"): ("MAS-IMM", L2, "server", MAS(), Mode(), Unchanged()),
    ("imm", "fim", "none"): ("FIM-IMM", L2, "server", Fisher("true", seed=1), Mode(), Unchanged()),
    ("mean_imm", "mas", "none"): ("mean-IMM", L2, "server", Uniform(), Mode(), Unchanged()),
    ("task_experts", "mas", "finetune"): ("Task Experts", L2, "none", None, Each(), Finetune(10, 5e-4, 0.9, seed=1)),
    ("ewc", "mas", "none"): ("EWC", Anchor(Fisher("true"), 400, accumulate=True), "none", None, Last(), Unchanged()),
    ("mas", "mas", "none"): ("MAS", Anchor(MAS(), 1, accumulate=True), "none", None, Last(), Unchanged()),
    ("lwf", "mas", "none"): ("LwF", Distil(1, 2), "none", None, Last(), Unchanged()),
    ("joint", "mas", "none"): ("Joint", Free(), "none", None, Last(), Unchanged()),
}


def config(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(overrides))


@pytest.mark.parametrize("choice", ROWS, ids="-".join)
def test_a_row_of_the_paper_is_this_combination(choice: tuple[str, str, str]) -> None:
    method, importance, adapt = choice
    row = make(config(f"method={method}", f"importance={importance}", f"adapt={adapt}"))
    assert (row.label, row.regulariser, row.prior, row.psi, row.chi, row.phi) == ROWS[choice]
    assert row.training == ("joint" if method == "joint" else "sequential")


@pytest.mark.parametrize("choice", [*product(METHODS, choices("importance"), choices("adapt"))], ids="-".join)
def test_every_combination_builds(choice: tuple[str, str, str]) -> None:
    method, importance, adapt = choice
    row = make(config(f"method={method}", f"importance={importance}", f"adapt={adapt}"))
    assert (row.method, row.adapt) == (method, adapt)
    assert row.importance == (importance if method in ("racl", "imm") else {"mean_imm": "uniform"}.get(method, "none"))


def test_labels_tell_all_combinations_apart() -> None:
    used = product(("racl", "imm"), choices("importance"), choices("adapt"))
    rest = product([m for m in METHODS if m not in ("racl", "imm")], ["mas"], choices("adapt"))
    rows = [make(config(f"method={m}", f"importance={i}", f"adapt={a}")) for m, i, a in [*used, *rest]]
    assert len({row.label for row in rows}) == len(rows)


def test_all_rows_are_the_papers() -> None:
    rows = [(r.method, r.get("importance", "mas"), r.get("adapt", "none")) for r in config("method=all").method.rows]
    assert rows == list(ROWS)


@pytest.mark.parametrize("experiment", choices("experiment"))
def test_an_experiment_can_be_narrowed_to_one_row(experiment: str) -> None:
    cfg = config(f"+experiment={experiment}", "method=lwf", "seed=4")
    assert (make(cfg).label, cfg.seed, cfg.name) == ("LwF", 4, experiment)


def test_the_paper_trains_as_section_5_1_says() -> None:
    cfg = config("+experiment=numbers")
    trainer = {key: cfg.trainer[key] for key in ("max_epochs", "lr", "momentum", "patience", "factor")}
    assert trainer == {"max_epochs": 10, "lr": 1e-3, "momentum": 0.9, "patience": 5, "factor": 0.1}
    assert (cfg.data.batch_size, cfg.data.per_task_and_domain, list(cfg.seed)) == (20, 10_000, [1, 2, 3])


@pytest.mark.parametrize("path", sorted(CONF.glob("*/*.yaml")), ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_a_yaml_tells_its_story(path: Path) -> None:
    if path.parent.name == "paths":
        return
    assert path.read_text(encoding="utf-8").startswith("# ")
