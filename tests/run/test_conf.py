"""The configuration: every choice composes and builds what the paper's table of rows says."""

import importlib.util
import inspect
from functools import cache
from itertools import product
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from lightning import Trainer
from lightning.pytorch.callbacks import LearningRateMonitor
from omegaconf import DictConfig

from dua_lightning import regularise
from dua_lightning.__main__ import CONF
from dua_lightning.adapt import (
    BBSE,
    AdaBN,
    AdaBNReleased,
    AdaBNS,
    AdaBNSReleased,
    Auto,
    BalancedBN,
    Chain,
    EarlyBN,
    Finetune,
    LabelShift,
    Unchanged,
)
from dua_lightning.errors import InputError
from dua_lightning.importance import FIM, MAS, Averaged, Clipped, Noise, Permuted
from dua_lightning.merge import (
    Each,
    Last,
    LastStatistics,
    Mean,
    MeanStatistics,
    Mode,
    ServerStatistics,
    TaskStatistics,
)
from dua_lightning.privacy import release
from dua_lightning.privacy.release import BF16, Int8, LeastImages, Levels, TopK
from dua_lightning.regularise import EWC, L2Transfer, LwF, NoRegulariser, Regulariser
from dua_lightning.run.rows import Row, rows
from dua_lightning.run.settings import VERBS, of_seed
from dua_lightning.run.training import device, make
from dua_lightning.training import Plateau


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


METHODS = [name for name in choices("method") if "rows:" not in (CONF / "method" / f"{name}.yaml").read_text()]

# The rows of the paper as combinations: label, regulariser, who measures psi with what, chi, phi.
L2 = L2Transfer(1e-3)
ROWS = {
    ("racl", "mas", "none"): ("MAS-RACL", L2, "user", MAS(), Mode(), Unchanged()),
    ("racl", "fim", "none"): ("FIM-RACL", L2, "user", FIM("true", seed=1), Mode(), Unchanged()),
    ("imm", "mas", "none"): ("MAS-IMM", L2, "server", MAS(), Mode(), Unchanged()),
    ("imm", "fim", "none"): ("FIM-IMM", L2, "server", FIM("true", seed=1), Mode(), Unchanged()),
    ("mean_imm", "mas", "none"): ("mean-IMM", L2, "none", None, Mean(), Unchanged()),
    ("task_experts", "mas", "finetune"): ("Task Experts", L2, "none", None, Each(), Finetune(10, 5e-4, 0.9, seed=1)),
    ("ewc", "mas", "none"): ("EWC", EWC(400), "none", None, Last(), Unchanged()),
    ("mas", "mas", "none"): ("MAS", regularise.MAS(1), "none", None, Last(), Unchanged()),
    ("lwf", "mas", "none"): ("LwF", LwF(1, 2), "none", None, Last(), Unchanged()),
    ("joint", "mas", "none"): ("Joint", NoRegulariser(), "none", None, Last(), Unchanged()),
}


@cache
def config(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(overrides))


def row(*overrides: str) -> Row:
    """The one row of a configuration, for its first seed."""
    (found,) = rows(of_seed([config(*overrides)], 1))
    return found


def same(a: Regulariser, b: Regulariser) -> bool:
    """Whether both are of one class and have the same settings, before anything is learnt."""
    return type(a) is type(b) and vars(a) == vars(b)


@pytest.mark.parametrize("choice", ROWS, ids="-".join)
def test_a_row_of_the_paper_is_this_combination(choice: tuple[str, str, str]) -> None:
    method, importance, adapt = choice
    found = row(f"method={method}", f"importance={importance}")
    label, regulariser, *rest = ROWS[choice]
    assert [found.label, found.prior, found.psi, found.chi, found.phi] == [label, *rest]
    assert same(found.regulariser, regulariser)
    assert found.training == ("joint" if method == "joint" else "sequential")
    assert found.adapt == adapt
    assert found.statistics == (None if found.chi.keeps_statistics else LastStatistics())


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("method", ["racl", "mean_imm", "joint"])
def test_every_choice_of_a_verb_goes_with_every_kind_of_method_or_is_refused(method: str, verb: str) -> None:
    for choice in choices(verb):
        cfg = config(f"method={method}").copy()
        cfg[verb] = config(f"{verb}={choice}")[verb]
        settings = of_seed([cfg], 1)
        if verb == "merge" and choice in ("mode", "regmean") and cfg.prior == "none":
            with pytest.raises(InputError, match="prior=user or prior=server"):
                rows(settings)
        else:
            (found,) = rows(settings)
            assert found.method == method
            assert found.settings["phi"] == settings.rows[0].adapt.plain()


@pytest.mark.parametrize("verb", VERBS)
def test_a_choice_is_named_by_its_file_and_says_how_tables_call_it(verb: str) -> None:
    for choice in choices(verb):
        node = config(f"{verb}={choice}")[verb]
        assert node.name == choice
        assert node.label


def test_a_verb_on_the_command_line_beats_the_methods_own() -> None:
    for overrides in (("method=ewc", "merge=mean"), ("merge=mean", "method=ewc")):
        assert row(*overrides).chi == Mean()
    assert row("method=task_experts", "adapt=none").phi == Unchanged()
    assert same(row("+experiment=digits", "method=lwf", "regularise=ewc").regulariser, row("method=ewc").regulariser)


@pytest.mark.parametrize(
    ("overrides", "label"),
    [
        (("adapt=adabn",), "MAS-RACL + AdaBN"),
        (("regularise=ewc", "importance=fim"), "FIM-RACL, EWC training"),
        (("regularise=ewc", "merge=mean", "importance=fim"), "RACL, EWC training, mean merge"),
        (("method=mean_imm", "statistics=server", "adapt=adabn"), "mean-IMM, server statistics + AdaBN"),
        (("method=ewc", "merge=mode", "prior=server"), "MAS-EWC, server's priors, mode merge"),
        (("prior=server",), "MAS-RACL, server's priors"),
        (("prior=other",), "MAS-RACL, another user's priors"),
        (("prior=oracle",), "MAS-RACL, oracle's priors of the scored images"),
        (("importance=averaged", "importance.level=layer"), "layer-MAS-RACL"),
        (("importance=permuted", "importance@importance.of=fim"), "permuted-FIM-RACL"),
        (("training=joint",), "MAS-RACL, joint training"),
        (("method=ewc", "importance=fim", "statistics=server", "prior=user"), "EWC"),
        (("method=task_experts", "adapt=none"), "Task Experts + no adaptation"),
        (("+method.importance=fim",), "RACL, MAS"),
        (("+method.importance=mas",), "RACL"),
    ],
    ids="-".join,
)
def test_a_label_names_every_choice_that_is_used_and_not_the_methods_own(
    overrides: tuple[str, ...], label: str
) -> None:
    assert row(*overrides).label == label


def test_every_method_is_a_row_of_the_paper() -> None:
    assert {choice[0] for choice in ROWS} == set(METHODS)


def test_a_merge_without_priors_has_nobody_measure_them() -> None:
    found = row("merge=mean")
    assert (found.psi, found.prior, found.importance, found.settings["psi"]) == (None, "none", "none", None)


def test_the_training_of_experts_has_the_regularisers_name() -> None:
    assert [row(f"method={m}").training_label for m in ("racl", "ewc", "joint")] == ["L2-transfer", "EWC", "Joint"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("prior=nobody", "prior=nobody.*'user', 'server', 'other', 'oracle' or 'none'"),
        ("training=twice", "training=twice.*'sequential' or 'joint'"),
        ("method.label=null", r"method\.label=None"),
        ("~method.merge", r"method\.merge is missing"),
        ("store.priors=some", r"store\.priors=some"),
        ("fidelity.imm_data=x", r"fidelity\.imm_data=x.*validation"),
        ("adapt._target_=dua_lightning.merge.Last", "does not make an Adapt, which has check"),
    ],
)
def test_a_setting_is_checked_where_a_run_begins(override: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        row(override)


def test_small_networks_run_on_one_thread_and_others_on_pytorchs_choice() -> None:
    scenes = ["+experiment=catprior", "data/images=photos"]
    for small in (["+experiment=photos"], ["+experiment=digits"], ["+experiment=population"], scenes):
        assert config(*small).threads == 1
    for other in (["+experiment=transprior"], ["+experiment=numbers"]):
        assert config(*other).threads is None


def test_the_released_behaviour_is_these_settings() -> None:
    cfg = config("fidelity=released", "adapt=finetune")
    found = row("fidelity=released", "adapt=finetune")
    assert same(found.regulariser, L2Transfer(1.0, first_task=3, pull_head=True))
    assert found.psi == MAS("batch_mean")
    assert (found.chi, found.statistics) == (Mode("zero"), LastStatistics())
    assert found.phi == Finetune(10, 5e-4, 0.9, seed=1, reset_batch_norm=True)
    assert (cfg.callbacks.plateau.stop_after, cfg.reset_batch_norm) == (6, True)
    fim = row("fidelity=released", "importance=fim", "method=imm")
    assert fim.psi == FIM("sampled", 1, "batch_mean", 1e-8)
    assert fim.training_data_too
    assert row("fidelity=released", "adapt=adabn").phi == AdaBNReleased()
    assert row("fidelity=released", "adapt=adabn_s").phi == AdaBNSReleased(5, 1e-3, 0.9)
    assert row("adapt=adabn_s").phi == AdaBNS(5, 1e-3, 0.9)
    scenes = config("+experiment=transprior", "fidelity=released").data
    assert not scenes.augment
    assert not scenes.images.resize_users
    assert config("+experiment=catprior", "fidelity=released").data.images.resize_users
    assert config("+experiment=transprior").data.images.resize_users


def test_each_released_behaviour_can_be_chosen_alone() -> None:
    found = row("fidelity.zero_importance=zero")
    assert found.chi == Mode("zero")
    assert found.psi == MAS()
    assert same(found.regulariser, L2)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("last", LastStatistics()),
        ("task", TaskStatistics()),
        ("mean", MeanStatistics()),
        ("server", ServerStatistics("auto")),
    ],
)
def test_the_statistics_of_a_merged_model_are_a_step_of_their_own(choice: str, expected: object) -> None:
    assert row(f"statistics={choice}").statistics == expected
    assert row(f"statistics={choice}", "method=mean_imm").statistics == expected
    for whole in ("ewc", "task_experts", "joint"):
        assert row(f"statistics={choice}", f"method={whole}").statistics is None


PICTURES = [path.stem for path in sorted((CONF / "data").glob("*.yaml")) if "images:" in path.read_text()]


@pytest.mark.parametrize("data", PICTURES)
@pytest.mark.parametrize("images", choices("data/images"))
def test_every_benchmark_of_pictures_composes_with_every_source_of_them(data: str, images: str) -> None:
    overrides = [f"data={data}", f"data/images={images}", "model=vgg11_bn"]
    where = {"folder": ["data.images.root=R"], "table": ["data.images.table=T"]}
    cfg = of_seed([config(*overrides, *where.get(images, []))], 1)
    small = images in ("photos", "digits")
    assert cfg.data.node["images"]["name"] == images
    assert cfg.data.node["input_size"] == (32 if small else 96 if images == "miniplaces" else 224)
    assert cfg.model.node["weights"] == ("none" if small else "imagenet")
    if images in where:
        assert cfg.data.node["images"]["skip_unreadable"] is (data == "own_users")
    if images == "mit_indoor":
        assert cfg.data.node["images"]["resize_users"] is True


@pytest.mark.parametrize("data", ["catprior", "transprior"])
def test_a_papers_scene_benchmark_trains_vgg11_bn_for_30_epochs(data: str) -> None:
    cfg = config(f"+experiment={data}", "data/images=photos")
    assert (cfg.model.name, cfg.trainer.max_epochs, cfg.data.images.name) == ("vgg11_bn", 30, "photos")


def test_the_scene_benchmarks_are_those_of_section_4() -> None:
    cfg = config("+experiment=transprior")
    assert (cfg.data.severity, cfg.data.extra_per_task, cfg.data.iterations, cfg.data.batch_size) == (3, 1000, 5, 30)
    cfg = config("+experiment=catprior")
    assert (cfg.data.users, cfg.data.preferred_categories, cfg.data.preferences) == (5, 3, "published")


def test_labels_tell_all_combinations_apart() -> None:
    verbs = ("regularise", "importance", "merge", "statistics", "adapt")
    few = {**{verb: choices(verb)[:2] for verb in verbs}, "merge": ["mean", "mode"]}
    nodes = {verb: {choice: config(f"{verb}={choice}")[verb] for choice in few[verb]} for verb in verbs}
    found = []
    for choice in product(*(few[verb] for verb in verbs)):
        cfg = config().copy()
        for verb, one in zip(verbs, choice, strict=True):
            cfg[verb] = nodes[verb][one]
        found += rows(of_seed([cfg], 1))
    settings = {}
    for one in found:
        assert settings.setdefault(one.label, one.settings) == one.settings, one.label
    # The importance does not count where the merge is a plain mean.
    assert len(settings) == 3 * len(found) / 4


def test_rows_that_are_the_same_are_one_and_others_of_one_name_are_refused() -> None:
    same = of_seed([config("merge=mean", f"importance={choice}") for choice in ("mas", "fim")], 1)
    assert [one.label for one in rows(same)] == ["RACL, mean merge"]
    other = of_seed([config("importance=fim", f"importance.floor={floor}") for floor in (0, 1)], 1)
    with pytest.raises(InputError, match="two rows of the method are called FIM-RACL"):
        rows(other)


def test_rows_of_one_choice_with_several_numbers_have_a_label_and_settings_each() -> None:
    few = [rows(of_seed([config("adapt=adabn_few", f"adapt.images={images}")], 1))[0] for images in (5, 20)]
    assert [(row.label, row.settings["phi"]["images"]) for row in few] == [
        ("MAS-RACL + AdaBN of 5 images", 5),
        ("MAS-RACL + AdaBN of 20 images", 20),
    ]
    assert [row.uses for row in few] == ["images", "images"]


def test_adaptations_of_several_steps_are_built_of_them() -> None:
    found = {
        adapt: row(f"adapt={adapt}")
        for adapt in ("early_bn_bbse", "chain", "balanced_label_shift", "auto", "auto_by", "t3a")
    }
    assert found["chain"].phi == Chain([AdaBN(), LabelShift()])
    assert found["balanced_label_shift"].phi == Chain([BalancedBN(3), LabelShift()])
    assert found["auto"].phi == Chain([Auto([EarlyBN(0.7)], margin=0.001), Auto([BBSE(0.03)], "likelihood", 0.01)])
    assert [one.label.partition(" + ")[2] for one in found.values()] == [
        *("AdaBN of the first 0.7 then BBSE (0.03)", "AdaBN then label shift", "balanced AdaBN then label shift"),
        *("auto", "auto by aetta", "T3A (K=20)"),
    ]
    assert row("adapt=early_bn_bbse", "adapt.steps.look.share=0.5").phi == Chain([EarlyBN(0.5), BBSE(0.03)])
    with pytest.raises(InputError, match=r"adapt\.steps\.look\.rounds=x cannot be used"):
        row("adapt=balanced_label_shift", "adapt.steps.look.rounds=x")


def test_records_know_what_a_row_uses_of_a_user() -> None:
    cases = {
        "nothing": (("method=imm",), ("method=joint",), ("prior=server",)),
        "images": ((), ("method=joint", "adapt=adabn")),
        "labels": (("importance=fim",), ("method=joint", "adapt=adabn_s"), ("method=task_experts",)),
        "others": (("prior=other",), ("prior=other", "importance=fim"), ("prior=other", "adapt=adabn_s")),
        "oracle": (("prior=oracle",), ("prior=oracle", "adapt=adabn")),
    }
    for uses, choices_of in cases.items():
        assert {rows(of_seed([config(*choice)], 1))[0].uses for choice in choices_of} == {uses}


RELEASES = {
    "none": (None, "MAS-RACL"),
    "least_images": (LeastImages(50), "MAS-RACL, priors of at least 50 images"),
    "levels": (Levels("channel"), "MAS-RACL, channel priors"),
    "bf16": (BF16(), "MAS-RACL, bf16 priors"),
    "int8": (Int8(8), "MAS-RACL, 8-bit priors"),
    "top_k": (TopK(0.01), "MAS-RACL, top-0.01 priors"),
    "gaussian": (None, "MAS-RACL, DP weight priors (sigma 1)"),
    "chain": (release.Chain([Levels("channel"), BF16()]), "MAS-RACL, channel priors, then bf16"),
}


@pytest.mark.parametrize("choice", choices("release"))
def test_a_release_is_of_the_users_own_priors_alone(choice: str) -> None:
    expected, label = RELEASES[choice]
    if choice == "gaussian":
        expected = release.Gaussian(100, 1)
    found = row(f"release={choice}")
    assert (found.release, found.label) == (expected, label)
    assert found.psi == (Clipped(MAS(), 100) if choice == "gaussian" else MAS())
    for others in (("method=imm",), ("prior=other",), ("method=mean_imm",)):
        one = row(f"release={choice}", *others)
        assert (one.release, one.label) == (None, row(*others).label)


def test_a_releases_settings_and_what_it_cannot_clip_are_refused_by_their_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(InputError, match=r"release: a number has 1 to 8 bits, got bits=9"):
        row("release=int8", "release.bits=9")
    with pytest.raises(InputError, match=r"release: the noise is at least 0 and finite, got sigma=-1"):
        row("release=gaussian", "release.sigma=-1")
    with pytest.raises(InputError, match=r"release=gaussian cannot be used with importance=averaged: only MAS and"):
        row("release=gaussian", "importance=averaged")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"release=gaussian cannot be used: epsilon needs .* pip install"):
        row("release=gaussian").check(None, labelled=True)


def test_the_rows_of_releases_stand_beside_null_priors() -> None:
    found = [dict(one) for one in config("method=releases").method.rows]
    assert {one["statistics"] for one in found} == {"server"}
    assert {one.get("importance") for one in found if one["method"] == "racl"} == {"mas", "noise", "permuted"}
    assert {one["release"] for one in found if "release" in one} >= {*choices("release")} - {"none", "least_images"}


def test_null_importances_wrap_any_other_one() -> None:
    for choice, kind in (("averaged", Averaged), ("noise", Noise), ("permuted", Permuted)):
        psi = row(f"importance={choice}", "importance@importance.of=fim").psi
        assert isinstance(psi, kind)
        assert psi.of == FIM("true", seed=1)
        assert psi.needs_labels
        assert row(f"importance={choice}").psi.of == MAS()


def test_all_rows_are_the_papers() -> None:
    found = [(r.method, r.get("importance", "mas"), r.get("adapt", "none")) for r in config("method=all").method.rows]
    assert found == list(ROWS)


@pytest.mark.parametrize("experiment", choices("experiment"))
def test_an_experiment_can_be_narrowed_to_one_row(experiment: str) -> None:
    own = ["data.images.root=x"] if experiment == "own_users" else []
    cfg = config(f"+experiment={experiment}", "method=lwf", "seed=4", *own)
    assert (rows(of_seed([cfg], 4))[0].label, cfg.seed, cfg.name) == ("LwF", 4, experiment)


def test_the_paper_trains_as_section_5_1_says() -> None:
    cfg = config("+experiment=numbers", "method=racl")
    asked = make(of_seed([cfg], 1).training)
    (optimizer, rule), weight = (asked.optimizer, asked.callbacks()), torch.nn.Parameter(torch.zeros(()))
    assert isinstance(optimizer([weight]), torch.optim.SGD)
    settings = optimizer([weight]).param_groups[0]
    assert (settings["lr"], settings["momentum"], settings["nesterov"], settings["weight_decay"]) == (
        1e-3,
        0.9,
        False,
        0,
    )
    assert [vars(one) for one in rule] == [vars(Plateau())]
    assert asked.scheduler is None
    assert asked.trainer(logger=False).max_epochs == 10
    assert (cfg.data.batch_size, cfg.data.per_task_and_domain, list(cfg.seed)) == (20, 10_000, [1, 2, 3])


@pytest.mark.parametrize("trainer", choices("trainer"))
def test_a_trainer_is_lightnings_on_a_device(trainer: str) -> None:
    settings = of_seed([config("+experiment=transprior", f"trainer={trainer}")], 1).training
    gpu = {"accelerator": "gpu", "precision": "bf16-mixed"}
    ddp = {**gpu, "devices": -1, "strategy": "ddp_spawn", "sync_batchnorm": True}
    expected = {"default": {}, "cpu": {}, "gpu": gpu, "ddp": ddp, "mps": {"accelerator": "mps"}}[trainer]
    plain = {"accelerator": "cpu", "devices": 1, "precision": "32-true", "strategy": "auto", "sync_batchnorm": False}
    # Lightning would refuse devices that this machine has not.
    given = settings.trainer.build(Trainer).keywords
    assert {name: given[name] for name in plain} == {**plain, **expected}
    assert given["max_epochs"] == 30
    assert [type(plugin).__name__ for plugin in given["plugins"]] == ["LightningEnvironment"]


LIGHTNING = set(inspect.signature(Trainer).parameters) - {"logger", "callbacks"}
NOT_LISTED = {
    *("use_distributed_sampler", "barebones", "reload_dataloaders_every_n_epochs"),
    *("enable_autolog_hparams", "model_registry"),
}


def test_every_argument_of_lightnings_trainer_can_be_given() -> None:
    """Those that say nothing to people here are not listed, and can be added."""
    assert set(config().trainer) - {"_target_", "_partial_"} == LIGHTNING - NOT_LISTED
    asked = make(of_seed([config("trainer.gradient_clip_val=0.5", "+trainer.barebones=false")], 1).training)
    assert asked.trainer(logger=False).gradient_clip_val == 0.5
    with pytest.raises(InputError, match=r"trainer\.max_epoch is not a setting of lightning\.Trainer"):
        make(of_seed([config("+trainer.max_epoch=3")], 1).training)
    with pytest.raises(InputError, match=r"trainer\.max_epochs=many cannot be used"):
        make(of_seed([config("trainer.max_epochs=many")], 1).training)


@pytest.mark.parametrize("choice", choices("optimizer"))
def test_an_optimizer_takes_the_parameters_of_a_network(choice: str) -> None:
    made = make(of_seed([config(f"optimizer={choice}", "optimizer.lr=0.5")], 1).training)
    assert made.optimizer([torch.nn.Parameter(torch.zeros(2))]).param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize("choice", choices("scheduler"))
def test_a_scheduler_takes_an_optimizer(choice: str) -> None:
    made = make(of_seed([config(f"scheduler={choice}")], 1).training)
    optimizer = made.optimizer([torch.nn.Parameter(torch.zeros(2))])
    if choice == "none":
        assert made.scheduler is None
    else:
        made.scheduler(optimizer)


def test_any_callback_of_lightnings_can_be_given() -> None:
    cfg = config(
        "+callbacks.lr._target_=lightning.pytorch.callbacks.LearningRateMonitor", "+callbacks.lr.log_momentum=true"
    )
    rule, second = make(of_seed([cfg], 1).training).callbacks()
    assert isinstance(rule, Plateau)
    assert isinstance(second, LearningRateMonitor)
    assert make(of_seed([config("callbacks=none")], 1).training).callbacks() == []
    with pytest.raises(InputError, match=r"callbacks\.x\._target_=torch\.nn\.Linear cannot be used there"):
        make(of_seed([config("+callbacks.x={_target_: torch.nn.Linear, in_features: 1, out_features: 1}")], 1).training)


def test_processes_that_would_run_the_whole_program_are_refused() -> None:
    with pytest.raises(InputError, match=r"trainer\.strategy=ddp cannot be used.*ddp_spawn"):
        make(of_seed([config("trainer.strategy=ddp")], 1).training)


@pytest.mark.parametrize("name", ["gpu", "mps", "tpu"])
def test_a_device_that_is_not_there_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(InputError, match=f"trainer.accelerator={name} cannot be used"):
        device(of_seed([config(f"trainer.accelerator={name}")], 1).training)
    assert device(of_seed([config("trainer.accelerator=auto")], 1).training).type == "cpu"


@pytest.mark.parametrize("path", sorted(CONF.glob("*/*.yaml")), ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_a_yaml_tells_its_story(path: Path) -> None:
    if path.parent.name == "paths":
        return
    assert path.read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize(("table", "adaptations"), [("table4", 3), ("adabn_artifact", 3)])
def test_a_table_has_every_row_of_table_4_with_each_adaptation(table: str, adaptations: int) -> None:
    found = [(r.method, r.get("importance"), r.adapt) for r in config(f"method={table}").method.rows]
    assert len(set(found)) == len(found)
    merged = [one for one in found if one[0] != "task_experts"]
    assert len(merged) == 8 * adaptations
    assert len({one[:2] for one in merged}) == 8
    assert (("task_experts", None, "finetune") in found) == (table == "table4")


def test_the_scenes_run_has_the_rows_of_both_tables_and_a_server_without_users() -> None:
    rows = {tuple(sorted(row.items())) for row in config("method=scenes").method.rows}
    for table in ("table4", "adabn_artifact", "ledger"):
        assert {tuple(sorted(row.items())) for row in config(f"method={table}").method.rows} <= rows
    served = {dict(row)["method"] for row in rows if dict(row).get("statistics") == "server"}
    assert served == {"racl", "imm", "mean_imm"}


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
