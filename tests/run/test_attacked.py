"""The attack of the privacy card on a run of the command line."""

import math
from pathlib import Path

import pandas as pd
import pytest

from dua_lightning.report import card
from tests.helpers.cli import TINY, run


def carded(
    folder: Path, *arguments: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> pd.Series:
    """The card of the one row of a run."""
    out = f"paths.output_dir={folder}"
    assert (
        run(
            *TINY, "method=racl", "logger=none", "threads=1", out, *arguments, capfd=capfd, monkeypatch=monkeypatch
        ).status
        == 0
    )
    done = run("privacy", str(folder), capfd=capfd, monkeypatch=monkeypatch)
    assert done.status == 0, done.err
    (line,) = pd.read_csv(folder / card.FILE).to_dict("records")
    return pd.Series(line)


def test_few_pictures_come_back_and_others_do_not(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = carded(tmp_path / "weights", capfd=capfd, monkeypatch=monkeypatch)
    assert weights["attack"] == "factorisation of the first layer"
    assert weights["sent"] == weights["plain"]
    assert weights["best"] > card.CLOSE
    assert weights["recovered"] > weights["control"]
    layers = carded(tmp_path / "layers", "release=levels", "release.level=layer", capfd=capfd, monkeypatch=monkeypatch)
    assert layers["level"] == "layer"
    # Two hidden layers have two weights and two biases.
    assert layers["sent"] == 16
    assert layers["recovered"] == 0
    assert math.isnan(layers["epsilon"])


def test_where_no_attack_applies_the_card_says_so(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = carded(tmp_path / "run", "importance=uniform", capfd=capfd, monkeypatch=monkeypatch)
    assert line["attack"] == "no attack of ours applies; that is no guarantee"
    assert math.isnan(line["recovered"])


def test_the_card_is_there_without_the_experts_too(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    store = f"paths.store_dir={tmp_path / 'store'}"
    arguments = (*TINY, "method=racl", "logger=none", store, f"paths.output_dir={folder}")
    assert run(*arguments, capfd=capfd, monkeypatch=monkeypatch).status == 0
    for path in (tmp_path / "store").rglob("*.safetensors"):
        path.unlink()
    done = run("privacy", str(folder), capfd=capfd, monkeypatch=monkeypatch)
    assert done.status == 0
    assert "no attack was tried: the store" in done.err
    assert "has no longer the experts of MAS-RACL" in done.err
    assert "is not known here: not run" in " ".join(done.out.split())
