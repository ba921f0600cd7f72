"""The checks that come before data: nothing is downloaded, decoded or made for settings that cannot be."""

from pathlib import Path

import pytest

from dua_lightning.data import mit_indoor
from tests.helpers.cli import refused, run

WRONG = {
    "a network without batch norm": ("adapt=adabn_s", "model=mlp"),
    "a vision transformer without batch norm": ("adapt=adabn", "model=vit_b_16"),
    "a network that timm lacks": ("model=timm", "model.name=nothing"),
    "a network too narrow": ("model.width=0",),
    "a network for larger pictures": ("data.input_size=16", "model=alexnet"),
    "no batch": ("data.batch_size=0",),
    "no batch for users": ("data.user_batch_size=0",),
    "draws that are a word": ("data.iterations=often",),
    "labels that users lack": ("importance=fim", "data.users_labelled=false"),
    "a device": ("trainer.accelerator=gpu",),
    "a rate": ("optimizer.lr=-1",),
    "a callback": ("+callbacks.x._target_=lightning.pytorch.callbacks.Nothing",),
    "an engine": ("engine=loky", "engine.workers=0"),
    "a regulariser": ("regularise=ewc", "regularise.strength=-1"),
    "a logger": ("logger._target_=lightning.Nothing",),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_setting_is_refused_before_a_download_starts(
    case: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(*arguments: object) -> None:
        raise AssertionError("a download has started")

    monkeypatch.setattr(mit_indoor, "obtain", fetch)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    places = (f"paths.output_dir={tmp_path / 'out'}", f"paths.data_dir={tmp_path / 'data'}")
    data = ("data=transprior", "data/images=mit_indoor", "model=vgg11_bn", "method=racl")
    done = run(*data, *WRONG[case], *places, capfd=capfd, monkeypatch=monkeypatch)
    assert refused(done), done.err
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("adapt", ["adabn", "adabn_s", "adabn_released", "adabn_s_released"])
def test_the_line_for_a_network_without_batch_norm_says_what_can_be_used(
    adapt: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = ("data=transprior", "data/images=mit_indoor", f"paths.data_dir={tmp_path / 'data'}")
    chosen = ("model=mlp", f"adapt={adapt}", f"paths.output_dir={tmp_path / 'out'}")
    done = run(*data, *chosen, capfd=capfd, monkeypatch=monkeypatch)
    assert refused(done), done.err
    assert f"adapt={adapt} cannot be used" in done.err
    assert "adapt by none or finetune, or use a network with batch normalisation, such as mobilenet_v2" in done.err


@pytest.mark.parametrize(("chosen", "missing"), [("timm", "name"), ("torchvision", "name"), ("own", "_target_")])
def test_a_setting_that_has_to_be_given_is_named(
    chosen: str, missing: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run(f"model={chosen}", f"paths.output_dir={tmp_path / 'out'}", capfd=capfd, monkeypatch=monkeypatch)
    assert refused(done), done.err
    assert f"model.{missing} is missing; give model.{missing}=VALUE" in done.err


@pytest.mark.parametrize("place", ["a file", "a file/store"])
def test_a_store_that_cannot_be_is_refused_and_nothing_made(
    place: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a file").touch()
    where = (f"paths.store_dir={tmp_path / place}", f"paths.output_dir={tmp_path / 'out'}")
    done = run("data=digits", *where, capfd=capfd, monkeypatch=monkeypatch)
    assert refused(done), done.err
    assert "paths.store_dir=" in done.err
    assert "is no folder" in done.err


def test_a_network_of_ones_own_that_takes_only_its_own_shape_is_left_to_the_data(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"paths.output_dir={tmp_path / 'out'}"
    chosen = ("data=digits", "data.tasks=2", "model._target_=tests.run.test_checks.picky", "~model.width")
    done = run(*chosen, "trainer.max_epochs=0", place, capfd=capfd, monkeypatch=monkeypatch)
    assert "[3, 28, 28]) and 4 classes" in done.err


def picky(shape: tuple[int, ...], classes: int, seed: int) -> object:
    """Fails for every shape, and says which."""
    from dua_lightning.errors import InputError

    if classes != 4:
        raise ValueError("no such network")
    raise InputError(f"picky was asked for {shape} and {classes} classes")
