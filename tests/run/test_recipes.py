"""The recipes of everything that is made: settings that matter to a stage change its digest, and no others do."""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from dua_lightning.__main__ import CONF
from dua_lightning.data.benchmark import Benchmark
from dua_lightning.errors import InputError
from dua_lightning.nets import mlp
from dua_lightning.regularise import NoRegulariser
from dua_lightning.run import recipes as module
from dua_lightning.run.build import build
from dua_lightning.run.recipes import Recipes
from dua_lightning.run.rows import Row, rows
from dua_lightning.run.settings import of_seed
from dua_lightning.run.training import HARMLESS
from dua_lightning.store.versions import Code
from tests.helpers.cli import TINY

BASE = (*TINY, "method=racl", "importance=fim", "adapt=finetune")
"""A row in which every setting has something to do."""

TO_EXPERTS = (
    *("seed=2", "data.tasks=3", "data.server_per_class=7", "data.batch_size=7", "data=numbers", "model.width=9"),
    *("trainer.max_epochs=2", "trainer.accelerator=gpu", "trainer.precision=bf16-mixed", "trainer.devices=2"),
    *("trainer.gradient_clip_val=1", "trainer.accumulate_grad_batches=2", "trainer.limit_train_batches=1"),
    *("trainer.enable_checkpointing=false", "trainer=ddp", "+model.hidden=2", "reset_batch_norm=true"),
    *("optimizer=adamw", "optimizer.lr=0.002", "optimizer.momentum=0.8", "optimizer.nesterov=true"),
    *("optimizer.weight_decay=0.1", "optimizer._partial_=false", "scheduler=cosine", "callbacks.plateau.monitor=x"),
    *("callbacks.plateau.patience=4", "callbacks.plateau.factor=0.2", "callbacks.plateau.stop_after=4"),
    *("callbacks=none", "+callbacks.lr._target_=lightning.pytorch.callbacks.LearningRateMonitor"),
    *("regularise.strength=0.5", "regularise.first_task=3", "regularise.pull_head=true", "regularise=ewc"),
    *("regularise=none", "training=joint", "fidelity=released", "fidelity.l2_strength=0.5", "fidelity.stop_after=9"),
)
TO_RESULTS = (
    *("importance=mas", "importance.labels=sampled", "importance.floor=0.1", "importance.estimator=batch_mean"),
    *(
        "importance.seed=7",
        "importance.precision=bf16",
        "prior=server",
        "prior=other",
        "prior=oracle",
        "adapt_after=last_task",
        "statistics=mean",
    ),
    *(
        "statistics=server",
        "statistics=task",
        "release=bf16",
        "release=levels",
        "release=top_k",
        "merge.zero_importance=zero",
        "merge.where=device",
        "merge.where=encrypted",
        "adapt=none",
        "adapt=adabn",
        "adapt.epochs=3",
    ),
    *("adapt.lr=0.1", "adapt.momentum=0.5", "adapt.seed=7", "adapt.reset_batch_norm=true", "data.user_per_class=5"),
    *("data.user_batch_size=5", "data.users_labelled=false", "fidelity.fim_floor=0.5", "fidelity.zero_importance=zero"),
)
TO_NOTHING = (
    *(
        "name=another",
        "objective=forgetting",
        "logger.name=x",
        "threads=3",
        "debug=true",
        "objective=forgetting",
        "store.priors=true",
        "logger=none",
        "logger=wandb",
        "engine=loky",
    ),
    *("paths.data_dir=a", "paths.output_dir=b", "paths.store_dir=c", "data.iterations=4"),
    *("data.name=x", "model.name=x", "method.name=x", "method.label=x", "method.prior=none prior=user"),
    *("method.training=joint training=sequential", "method.regularise=x", "method.merge=x", "method.statistics=x"),
    *("method.adapt=x", "regularise.name=x", "regularise.label=x", "importance.name=x", "importance.label=x"),
    *(
        "merge.name=x",
        "merge.label=x",
        "merge.where=server",
        "statistics.name=x",
        "statistics.label=x",
        "adapt.name=x",
        "adapt.label=x",
    ),
    *("release.name=x", "release.label=x", "release=bf16 prior=server release=none prior=user"),
    *("fidelity.name=x", "method=imm prior=user"),
    *("fidelity.adabn=x", "fidelity.imm_data=train_and_validation", "trainer.enable_progress_bar=true"),
    *("trainer.profiler=simple", "trainer.log_every_n_steps=1", "trainer.default_root_dir=x"),
)
CLASSES = {**dict.fromkeys(TO_EXPERTS, 2), **dict.fromkeys(TO_RESULTS, 1), **dict.fromkeys(TO_NOTHING, 0)}


@pytest.fixture(autouse=True, scope="module")
def _paths() -> Iterator[None]:
    """Many configurations in one session of Hydra."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


@cache
def benchmark(text: str, seed: int) -> Benchmark:
    return build(json.loads(text), "data", seed=seed)


def made_of(cfg: DictConfig, bench: Benchmark | None = None) -> tuple[Recipes, Row, Benchmark]:
    of_cfg = of_seed([cfg], cfg.seed)
    (row,) = rows(of_cfg)
    if bench is None:
        # The numbers cannot be downloaded; what counts of them is that they are other images.
        ours = cfg.data._target_.endswith("digits")
        data = of_cfg.data if ours else of_seed([compose("config", [*BASE])], 9).data
        bench = benchmark(json.dumps(data.node), cfg.seed if ours else 9)
    start = mlp(bench.shape, bench.classes, cfg.seed, width=cfg.model.width).state_dict()
    return Recipes(of_cfg, start, bench), row, bench


@cache
def keys(*changes: str) -> tuple[list[str], list[str]]:
    """The keys of the experts, and of the results of every user's first two draws."""
    groups = {change.partition("=")[0] for change in changes}
    kept = [text for text in BASE if text.partition("=")[0] not in groups]
    if "data=numbers" in changes:
        kept = [text for text in kept if not text.startswith("data.") or text == "data.tasks=2"]
    recipes, row, bench = made_of(compose("config", [*kept, *changes]))
    experts = [recipe.key for recipe in recipes.experts(row)]
    return experts, [recipes.result(row, user.draw(i)).key for user in bench.users for i in (1, 2)]


def effect(*changes: str) -> int:
    """Tell what changes: 2 the experts, and with them all results; 1 the results alone; 0 nothing."""
    experts, results = keys(*changes)
    expected_experts, expected_results = keys()
    if experts[-1] != expected_experts[-1]:
        assert not set(results) & set(expected_results)
        return 2
    assert experts == expected_experts
    if results == expected_results:
        return 0
    # The user uci has all there are in any case.
    assert "data.user_per_class=5" in changes or not set(results) & set(expected_results)
    return 1


@pytest.mark.parametrize("change", CLASSES)
def test_a_setting_reaches_what_it_matters_to(change: str) -> None:
    assert effect(*change.split()) == CLASSES[change]


def test_all_gpus_are_so_many_as_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    keys.cache_clear()
    assert keys("trainer=ddp") == keys("trainer=ddp", "trainer.devices=3") != keys("trainer=ddp", "trainer.devices=2")
    keys.cache_clear()


LISTED = ("_target_", "_partial_", "accelerator", "devices")


@pytest.mark.parametrize("name", [name for name in OmegaConf.load(CONF / "trainer/default.yaml") if name not in LISTED])
def test_every_argument_of_the_trainer_counts_but_those_that_change_no_bit(name: str) -> None:
    cfg = compose("config", list(BASE))
    recipes, row, bench = made_of(cfg)
    of_cfg = of_seed([cfg], cfg.seed)
    trainer = replace(of_cfg.training.trainer, node={**of_cfg.training.trainer.node, name: "another value"})
    changed = replace(of_cfg, training=replace(of_cfg.training, trainer=trainer))
    start = mlp(bench.shape, bench.classes, cfg.seed, width=cfg.model.width).state_dict()
    other = Recipes(changed, start, bench)
    pairs = list(zip(other.experts(row), recipes.experts(row), strict=True))
    assert all((a.key == b.key) == (name in HARMLESS) for a, b in pairs)


numbers = {
    "optimizer.lr": st.floats(1e-6, 1).filter(lambda value: value != 1e-3),
    "adapt.lr": st.floats(1e-6, 1).filter(lambda value: value != 5e-4),
    "adapt.epochs": st.integers(1, 99).filter(lambda value: value != 10),
    "seed": st.integers(2, 2**31),
    "threads": st.integers(1, 64),
    "data.iterations": st.integers(2, 99),
}
CLASS_OF = {"optimizer.lr": 2, "seed": 2, "adapt.lr": 1, "adapt.epochs": 1}


@pytest.mark.slow
@settings(max_examples=20, deadline=None, derandomize=True, database=None)
@given(st.lists(st.sampled_from([*numbers]), min_size=1, max_size=3, unique=True), st.data())
def test_whatever_the_values_the_greatest_effect_counts(names: list[str], data: st.DataObject) -> None:
    changes = [f"{name}={data.draw(numbers[name])}" for name in names]
    assert effect(*changes) == max(CLASS_OF.get(name, 0) for name in names)


def leaves(node: object, path: str = "") -> Iterator[str]:
    """Places of all settings but those that only pass on another one."""
    if not isinstance(node, dict):
        if not str(node).startswith("${"):
            yield path
        return
    for name, value in node.items():
        yield from leaves(value, f"{path}.{name}".lstrip("."))


def test_every_setting_has_its_place_in_the_lists() -> None:
    listed = {change.partition("=")[0].lstrip("+") for change in CLASSES}
    groups = {name for name in listed if "." not in name}
    every = leaves(OmegaConf.to_container(compose("config", list(BASE)), resolve=False))
    forgotten = {
        path
        for path in every
        if path not in listed
        # A target is chosen by its group; fidelity's values act through the settings that name them.
        and not (path.endswith("_target_") and path.partition(".")[0] in groups | {"method", "model", "merge"})
        # The Trainer's arguments have a test of their own, and simulated users are other users, with recipes of theirs.
        and path.partition(".")[0] not in ("fidelity", "trainer", "simulate")
    }
    assert forgotten == set()


@pytest.mark.parametrize(("iteration", "same"), [(1, True), (2, False)])
def test_a_result_is_of_one_draw_of_one_user(iteration: int, same: bool) -> None:
    recipes, row, bench = made_of(compose("config", list(BASE)))
    found = [recipes.result(row, user.draw(iteration)).key for user in bench.users]
    assert len(set(found)) == len(found)
    assert (found == [recipes.result(row, user).key for user in bench.users]) == same


def test_other_users_do_not_matter() -> None:
    cfg = compose("config", list(BASE))
    recipes, row, bench = made_of(cfg)
    alone, _, _ = made_of(cfg, replace(bench, users=bench.users[1:2]))
    assert alone.result(row, bench.users[1]) == recipes.result(row, bench.users[1])


def test_the_images_of_server_and_user_matter() -> None:
    cfg = compose("config", list(BASE))
    recipes, row, bench = made_of(cfg)
    first = bench.server[0].train
    pixels = first.pixels
    pixels[0, 0, 0, 0] ^= 1
    images = replace(first, store=pixels, rows=first.rows.argsort().argsort())
    other, _, _ = made_of(cfg, replace(bench, server=(_with_train(bench, images), *bench.server[1:])))
    pairs = zip(other.experts(row), recipes.experts(row), strict=True)
    assert all(a.key != b.key for a, b in pairs)


def _with_train(bench: Benchmark, images: object) -> object:
    first = bench.server[0]
    return type(first)(first.task, images, first.validation, first.batch_size, first.seed)


def test_methods_share_the_first_expert_and_each_prefix_its_own() -> None:
    found = {
        method: [r.key for r in recipes.experts(row)]
        for method in ("racl", "imm", "ewc", "mas", "lwf")
        for recipes, row, _ in [made_of(compose("config", [*TINY, f"method={method}"]))]
    }
    assert found["racl"] == found["imm"]
    assert len({experts[0] for experts in found.values()}) == 1
    assert len({experts[1] for experts in found.values()}) == 4


def test_priors_depend_on_their_data_and_not_on_what_is_done_with_them() -> None:
    def priors(*changes: str, user: bool) -> str:
        recipes, row, bench = made_of(compose("config", [*BASE, *changes]))
        return recipes.priors(row, bench.users[0] if user else None).key

    for change in ("statistics=mean", "adapt.epochs=3", "data.user_batch_size=5"):
        assert priors(change, user=True) == priors(user=True)
    assert priors("data.user_per_class=5", user=False) == priors(user=False)
    assert priors("data.user_per_class=5", user=True) != priors(user=True)
    assert priors("importance.floor=0.1", user=True) != priors(user=True)
    assert priors("fidelity.imm_data=train_and_validation", user=False) != priors(user=False)
    assert priors(user=False) != priors(user=True)
    assert priors("prior=other", user=True) == priors(user=True)
    assert priors("prior=oracle", user=True) != priors(user=True)


def test_a_result_by_another_users_prior_depends_on_that_user() -> None:
    recipes, row, bench = made_of(compose("config", [*BASE, "prior=other"]))
    assert [bench.after(user).user for user in bench.users] == [
        user.user for user in (*bench.users[1:], bench.users[0])
    ]
    without, _, _ = made_of(compose("config", [*BASE, "prior=other"]), replace(bench, users=bench.users[::2]))
    assert without.result(row, bench.users[0]) != recipes.result(row, bench.users[0])
    assert without.result(row, bench.users[2]) == recipes.result(row, bench.users[2])
    alone, _, _ = made_of(compose("config", [*BASE, "prior=other"]), replace(bench, users=bench.users[:1]))
    with pytest.raises(InputError, match=r"no other user than .*; give it at least two"):
        alone.result(row, bench.users[0])


@pytest.mark.parametrize("declared", [None, True, False])
def test_the_first_expert_is_shared_only_by_regularisers_that_declare_that_they_leave_it_alone(
    monkeypatch: pytest.MonkeyPatch, declared: bool | None
) -> None:
    if declared is not None:
        monkeypatch.setattr(Eager, "acts_on_first_task", declared, raising=False)
    theirs = (f"regularise._target_={__name__}.Eager", "regularise.strength=2")
    (first, second), (ours, _) = (made_experts(*changes) for changes in (theirs, ()))
    assert (first == ours) == (declared is False)
    assert second not in (first, ours)
    (stronger, _) = made_experts(theirs[0], "regularise.strength=3")
    assert (first == stronger) == (declared is False)


def made_experts(*changes: str) -> list[str]:
    recipes, row, _ = made_of(compose("config", [*BASE, *changes]))
    return [recipe.key for recipe in recipes.experts(row)]


class Eager(NoRegulariser):
    """A regulariser of a reader's own, that says nothing about the first task; the class it extends does."""

    def __init__(self, strength: float, first_task: int, pull_head: bool) -> None:
        pass


def test_code_of_somebody_elses_counts_with_what_it_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper, mine = tmp_path / "theirs_helper.py", tmp_path / "theirs.py"
    helper.write_text("RATE = 1\n")
    mine.write_text(
        "from dua_lightning.adapt import Unchanged\nfrom theirs_helper import RATE\n\n\nclass Mine(Unchanged):\n"
        "    def __init__(self, epochs: int, lr: float, momentum: float, seed: int, reset_batch_norm: bool) -> None:\n"
        "        self.rate = RATE\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    before = fresh_keys(monkeypatch, "adapt._target_=theirs.Mine")
    for file in (helper, mine):
        file.write_text(f"# A reader wrote this.\n{file.read_text()}")
    assert fresh_keys(monkeypatch, "adapt._target_=theirs.Mine") == before
    for file, old, new in ((helper, "1", "2"), (mine, "= RATE", "= -RATE")):
        file.write_text(file.read_text().replace(old, new))
        after = fresh_keys(monkeypatch, "adapt._target_=theirs.Mine")
        assert after[0] == before[0]
        assert not set(after[1]) & set(before[1])
        before = after


def fresh_keys(monkeypatch: pytest.MonkeyPatch, *changes: str) -> tuple[list[str], list[str]]:
    """Those of a new process."""
    monkeypatch.setattr(module, "version", Code().version)
    return keys.__wrapped__(*changes)
