"""The configuration: every choice composes and builds what the paper's table of rows says."""

from itertools import product
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from dua_lightning.__main__ import CONF
from dua_lightning.adapt import AdaBNReleased, AdaBNS, AdaBNSReleased, Finetune, Unchanged
from dua_lightning.errors import InputError
from dua_lightning.importance import FIM, MAS, Uniform
from dua_lightning.merge import Each, Last, Mode
from dua_lightning.regularise import Anchor, Distil, Free
from dua_lightning.run.build import build
from dua_lightning.run.rows import make
from dua_lightning.training.training import Training


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


METHODS = [name for name in choices("method") if "rows:" not in (CONF / "method" / f"{name}.yaml").read_text()]

# The rows of the paper as combinations: label, regulariser, who measures psi with what, chi, phi.
L2 = Anchor(Uniform(), 1e-3, accumulate=False)
ROWS = {
    ("racl", "mas", "none"): ("MAS-RACL", L2, "user", MAS(), Mode(), Unchanged()),
    ("racl", "fim", "none"): ("FIM-RACL", L2, "user", FIM("true", seed=1), Mode(), Unchanged()),
    ("imm", "mas", "none"): ("MAS-IMM", L2, "server", MAS(), Mode(), Unchanged()),
    ("imm", "fim", "none"): ("FIM-IMM", L2, "server", FIM("true", seed=1), Mode(), Unchanged()),
    ("mean_imm", "mas", "none"): ("mean-IMM", L2, "server", Uniform(), Mode(), Unchanged()),
    ("task_experts", "mas", "finetune"): ("Task Experts", L2, "none", None, Each(), Finetune(10, 5e-4, 0.9, seed=1)),
    ("ewc", "mas", "none"): ("EWC", Anchor(FIM("true"), 400, accumulate=True), "none", None, Last(), Unchanged()),
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


def test_small_networks_run_on_one_thread_and_others_on_pytorchs_choice() -> None:
    scenes = ["+experiment=catprior", "data/images=photos"]
    for small in (["+experiment=photos"], ["+experiment=digits"], ["+experiment=population"], scenes):
        assert config(*small).threads == 1
    for other in (["+experiment=transprior"], ["+experiment=numbers"]):
        assert config(*other).threads is None


def test_the_released_behaviour_is_these_settings() -> None:
    cfg = config("fidelity=released", "adapt=finetune")
    row = make(cfg)
    assert row.regulariser == Anchor(Uniform(), 1.0, accumulate=False, first_task=3, pull_head=True)
    assert row.psi == MAS("batch_mean")
    assert row.chi == Mode("zero", "last")
    assert row.phi == Finetune(10, 5e-4, 0.9, seed=1, reset_batch_norm=True)
    assert (cfg.trainer.stop_after, cfg.trainer.reset_batch_norm) == (6, True)
    fim = make(config("fidelity=released", "importance=fim", "method=imm"))
    assert fim.psi == FIM("sampled", 1, "batch_mean", 1e-8)
    assert fim.training_data_too
    assert make(config("fidelity=released", "adapt=adabn")).phi == AdaBNReleased()
    assert make(config("fidelity=released", "adapt=adabn_s")).phi == AdaBNSReleased(5, 1e-3, 0.9)
    assert make(config("adapt=adabn_s")).phi == AdaBNS(5, 1e-3, 0.9)
    scenes = config("+experiment=transprior", "fidelity=released").data
    assert not scenes.augment
    assert not scenes.images.resize_users
    assert config("+experiment=catprior", "fidelity=released").data.images.resize_users
    assert config("+experiment=transprior").data.images.resize_users


def test_each_released_behaviour_can_be_chosen_alone() -> None:
    row = make(config("fidelity.zero_importance=zero"))
    assert row.chi == Mode("zero", "last")
    assert (row.regulariser, row.psi) == (L2, MAS())


@pytest.mark.parametrize("rule", ["last", "task", "mean", "server"])
def test_the_buffers_of_a_merged_model_are_a_named_choice(rule: str) -> None:
    row = make(config(f"merge.batch_norm={rule}"))
    assert row.recalibrate == (rule == "server")
    assert row.chi == Mode(batch_norm="task" if rule == "server" else rule)
    assert not make(config(f"merge.batch_norm={rule}", "method=ewc")).recalibrate
    with pytest.raises(InputError, match="last, task, mean, server"):
        make(config("merge.batch_norm=first"))


@pytest.mark.parametrize("benchmark", ["catprior", "transprior"])
@pytest.mark.parametrize("images", choices("data/images"))
def test_networks_and_benchmarks_take_the_sizes_that_suit_the_images(benchmark: str, images: str) -> None:
    cfg = config(
        f"+experiment={benchmark}", f"data/images={images}", "data.images.root=R" if images == "folder" else "seed=1"
    )
    small = images in ("photos", "digits")
    assert (cfg.data.input_size, cfg.model.weights) == ((32, "none") if small else (224, "imagenet"))
    assert (cfg.model.name, cfg.trainer.max_epochs, cfg.data.images.name) == ("vgg11_bn", 30, images)


def test_the_scene_benchmarks_are_those_of_section_4() -> None:
    cfg = config("+experiment=transprior")
    assert (cfg.data.severity, cfg.data.extra_per_task, cfg.data.iterations, cfg.data.batch_size) == (3, 1000, 5, 30)
    cfg = config("+experiment=catprior")
    assert (cfg.data.users, cfg.data.preferred_categories, cfg.data.preferences) == (5, 3, "published")


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


@pytest.mark.parametrize("trainer", choices("trainer"))
def test_a_trainer_is_the_papers_on_another_device(trainer: str) -> None:
    cfg = config("+experiment=transprior", f"trainer={trainer}")
    gpu = {"accelerator": "gpu", "precision": "bf16-mixed"}
    expected = {"default": {}, "gpu": gpu, "ddp": {**gpu, "devices": None}}[trainer]
    assert build(cfg.trainer, "trainer", Training) == Training(max_epochs=30, **expected)


@pytest.mark.parametrize("path", sorted(CONF.glob("*/*.yaml")), ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_a_yaml_tells_its_story(path: Path) -> None:
    if path.parent.name == "paths":
        return
    assert path.read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize(("table", "adaptations"), [("table4", 3), ("adabn_artifact", 3)])
def test_a_table_has_every_row_of_table_4_with_each_adaptation(table: str, adaptations: int) -> None:
    rows = [(r.method, r.get("importance"), r.adapt) for r in config(f"method={table}").method.rows]
    assert len(set(rows)) == len(rows)
    mergeless = [row for row in rows if row[0] != "task_experts"]
    assert len(mergeless) == 8 * adaptations
    assert len({row[:2] for row in mergeless}) == 8
    assert (("task_experts", None, "finetune") in rows) == (table == "table4")


def launcher(choice: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        node: DictConfig = compose("config", [f"hydra/launcher={choice}", *overrides], return_hydra_config=True)
        return node.hydra.launcher


def test_the_launcher_for_processes_is_joblibs() -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="hydra-joblib-launcher is not installed")
    assert launcher("processes").n_jobs == 2
    assert launcher("processes", "hydra.launcher.n_jobs=3").n_jobs == 3


def test_the_launcher_for_slurm_is_submitits_and_requeues() -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="hydra-submitit-launcher is not installed")
    cfg = launcher("slurm", "hydra.launcher.qos=long", "hydra.launcher.gpus_per_node=1")
    assert (cfg.max_num_timeout, cfg.additional_parameters.requeue, cfg.qos, cfg.gpus_per_node) == (4, True, "long", 1)
