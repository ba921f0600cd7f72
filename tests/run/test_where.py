"""The place of a merge as a setting of a row."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir

from dua_lightning.__main__ import CONF
from dua_lightning.errors import InputError
from dua_lightning.run.draws import Draw, Draws, Result
from dua_lightning.run.rows import rows
from dua_lightning.run.settings import SeedSettings, of_seed
from dua_lightning.store.store import digest
from dua_lightning.tasks import Expert
from tests.helpers.cli import TINY, run
from tests.helpers.nets import equal


def settings(*arguments: str) -> SeedSettings:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return of_seed([compose("config", [*TINY, *arguments])], 1)


def computed(*arguments: str) -> tuple[dict[str, dict[str, torch.Tensor]], Result, int]:
    """The final states of the first user, their result, and the bytes of one prior."""
    draws = Draws(settings("method=racl", *arguments))
    (row,) = draws.rows
    data = draws.benchmark.users[0].draw(1)
    experts = [
        Expert(task, {name: tensor + place for name, tensor in draws.start.items()})
        for place, task in enumerate(draws.benchmark.tasks)
    ]
    shared = {recipe.key: expert.state for recipe, expert in zip(draws.recipes.experts(row), experts, strict=True)}
    states, _ = draws.personal(row, data, shared)
    (result,), _ = draws.compute(Draw(0, 1, (0,), digest(data.recipe())), shared)
    again = Result.of(result.tensors(draws.benchmark.tasks), draws.benchmark.tasks)
    assert repr(again.merging) == repr(result.merging)
    return states, result, sum(4 * t.numel() for n, t in draws.net.named_parameters() if n.startswith("body."))


def test_the_device_and_the_server_make_the_same_bits_for_other_bytes() -> None:
    server, of_server, prior = computed()
    device, of_device, _ = computed("merge.where=device")
    equal(server, device)
    assert of_server.R.tobytes() == of_device.R.tobytes()
    assert of_server.merging is not None
    assert of_device.merging is not None
    assert (of_server.merging.up, of_device.merging.up) == (2 * prior, 0)
    assert of_server.merging.down - of_device.merging.down == prior
    _, of_release, _ = computed("release=bf16")
    assert of_release.merging is not None
    assert of_release.merging.up == prior


def test_under_encryption_a_run_differs_by_rounding_alone() -> None:
    pytest.importorskip("tenseal", reason="tenseal is not installed")
    plain, _, prior = computed()
    hidden, result, _ = computed("merge.where=encrypted")
    for task, state in plain.items():
        torch.testing.assert_close(hidden[task], state, rtol=0, atol=1e-5)
    assert result.merging is not None
    assert result.merging.up > 2 * prior


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("method=mean_imm", "merge.where=device"), ("merge=mean", "method=racl")),
        (("method=ewc", "merge.where=encrypted"), ("merge=last", "method=racl")),
        (("method=imm", "merge.where=device"), ("prior=server", "method=racl")),
        (("importance=gram", "merge=regmean", "merge.where=encrypted"), ("merge=regmean", "merge.where=device")),
        (("release=bf16", "merge.where=device"), ("release=bf16", "release=none")),
        (("statistics=server", "merge.where=device"), ("statistics=server", "statistics=last, mean or task")),
        (("adapt=bbse", "merge.where=encrypted"), ("adapt=bbse", "adapt=adabn")),
        (("merge.where=nowhere",), ("merge.where=nowhere", "'server', 'device' or 'encrypted'")),
    ],
    ids=lambda value: " ".join(value),
)
def test_what_makes_no_sense_elsewhere_is_refused_with_what_can_be_used(
    arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    with pytest.raises(InputError) as refusal:
        rows(settings(*arguments))
    assert all(word in str(refusal.value) for word in words), str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_gram_matrix_may_stay_on_the_device() -> None:
    (row,) = rows(settings("importance=gram", "merge=regmean", "merge.where=device"))
    assert row.label.endswith(", merged on the device")
    (plain,) = rows(settings())
    assert "where" not in plain.settings["chi"], "keys of stored results would be others"


def test_without_the_library_encryption_is_refused_before_data_are_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (row,) = rows(settings("merge.where=encrypted"))
    with pytest.raises(InputError, match=r"merge\.where=encrypted cannot be used: .*dua_lightning\[privacy\]"):
        row.check(None, labelled=True)


def test_a_run_has_a_line_for_each_merge_and_a_table_of_them(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = (*TINY, "threads=1", "engine=serial", "logger=none", f"paths.output_dir={tmp_path / 'out'}")
    done = run(*asked, "method=racl", "merge.where=device", capfd=capfd, monkeypatch=monkeypatch)
    assert done.status == 0, done.err
    assert "what merging costs one user" in done.out
    found = pd.read_csv(tmp_path / "out/merges.csv")
    assert set(found["label"]) == {"MAS-RACL, merged on the device"}
    assert set(found["where"]) == {"device"}
    assert (found["up"] == 0).all()
