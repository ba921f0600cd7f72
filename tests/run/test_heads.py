"""A network of one's own: its last layer may have any name, and is refused if it cannot be told from the rest."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.cli import TINY, Done, refused, run

MODULE = """
import math
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm
from dua_lightning.nets import Network

def parts(shape, width):
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), width), nn.ReLU()), width

class Named(nn.Module):
    def __init__(self, body, last):
        super().__init__()
        self.body, self.fc = body, last

    def forward(self, x):
        return self.fc(self.body(x))

def fc(shape: tuple, classes: int, seed: int, width: int = 8) -> nn.Module:
    body, width = parts(shape, width)
    return Named(body, nn.Linear(width, classes))

class Deep(nn.Module):
    def __init__(self, shape, classes, temperature, width):
        super().__init__()
        body, width = parts(shape, width)
        self.features, self.classifier = body, nn.Sequential(nn.Dropout(0.5), nn.Linear(width, classes))
        self.temperature = temperature

    def forward(self, x):
        return self.classifier(self.features(x)) / self.temperature

def deep(shape: tuple, classes: int, seed: int, width: int = 8) -> nn.Module:
    return Deep(shape, classes, 1.0, width)

def cooled(shape: tuple, classes: int, seed: int, width: int = 8) -> nn.Module:
    return Deep(shape, classes, 2.0, width)

def own(shape: tuple, classes: int, seed: int, head: str, width: int = 8) -> nn.Module:
    body, width = parts(shape, width)
    assert head == "mine"
    return Network(body, nn.Linear(width, classes))

def parallel(shape: tuple, classes: int, seed: int, width: int = 8) -> nn.Module:
    body, width = parts(shape, width)
    return nn.DataParallel(Network(body, nn.Linear(width, classes)))

def tied(shape: tuple, classes: int, seed: int, width: int = 8) -> nn.Module:
    body, width = parts(shape, width)
    net = Network(nn.Sequential(body, nn.Linear(width, classes), nn.Linear(classes, width)), nn.Linear(width, classes))
    net.head.weight = net.body[1].weight
    return net

def normed(shape: tuple, classes: int, seed: int, width: int = 8) -> nn.Module:
    body, width = parts(shape, width)
    return Network(nn.Sequential(body, spectral_norm(nn.Linear(width, width))), nn.Linear(width, classes))
"""


@pytest.fixture
def dua(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    (tmp_path / "owned.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)

    def call(name: str, *arguments: str) -> Done:
        places = (f"model._target_=owned.{name}", f"paths.output_dir={tmp_path / 'out'}")
        # Another choice of network does not name the perceptron's width.
        size = [text for text in TINY if text != "model.width=8" or "model=own" not in arguments]
        return run(*size, *places, "logger=none", "threads=1", *arguments, capfd=capfd, monkeypatch=monkeypatch)

    return call


@pytest.mark.parametrize("method", ["racl", "imm"])
def test_a_last_layer_of_another_name_is_not_merged(method: str, dua: Callable[..., Done]) -> None:
    done = dua("fc", f"method={method}")
    assert refused(done), done.err
    assert "have columns of their own" in done.err
    assert "fc.bias" in done.err or "fc.weight" in done.err
    assert "+model.head=NAME" in done.err
    assert "trained" not in done.out


@pytest.mark.parametrize("method", ["racl", "imm"])
@pytest.mark.parametrize(("name", "head"), [("fc", "fc"), ("deep", "classifier.1"), ("own", "mine")])
def test_a_last_layer_of_another_name_becomes_the_head(
    name: str, head: str, method: str, dua: Callable[..., Done]
) -> None:
    done = dua(name, f"method={method}", f"+model.head={head}")
    assert done.status == 0, done.err


@pytest.mark.parametrize(
    ("name", "setting", "said"),
    [
        ("fc", "+model.head=fcc", "model.head=fcc cannot be used: this Named has no linear layer fcc; it has "),
        ("fc", "+model.head=body.1", "body.1 is not the last step of this Named"),
        ("cooled", "+model.head=classifier.1", "classifier.1 is not the last step of this Deep"),
        ("fc", "model.head=fc", "a + in front: +model.head=NAME"),
        ("fc", "+model.haed=fc", "model.haed is not a setting"),
    ],
)
def test_a_name_that_is_not_the_last_layers_is_refused(
    name: str, setting: str, said: str, dua: Callable[..., Done]
) -> None:
    done = dua(name, "method=racl", setting)
    assert refused(done), done.err
    assert said in done.err
    assert "trained" not in done.out


def test_a_network_of_ones_own_is_a_choice(dua: Callable[..., Done]) -> None:
    done = dua("fc", "method=racl", "model=own", "model.name=mine", "model.head=fc")
    assert done.status == 0, done.err


@pytest.mark.parametrize("name", ["fc", "tied", "normed"])
def test_a_network_that_nobody_merges_may_be_any(name: str, dua: Callable[..., Done]) -> None:
    done = dua(name, "method=lwf")
    assert done.status == 0, done.err


def test_a_weight_of_body_and_head_is_merged_only_where_priors_leave_it_out(dua: Callable[..., Done]) -> None:
    done = dua("tied", "method=mean_imm", "merge=mean")
    assert refused(done), done.err
    assert "body.1.weight is a weight of the head too" in done.err
    assert "trained" not in done.out
    assert dua("tied", "method=racl").status == 0


@pytest.mark.parametrize("method", ["racl", "mean_imm"])
def test_weights_with_a_norm_of_their_own_are_not_merged(method: str, dua: Callable[..., Done]) -> None:
    done = dua("normed", f"method={method}")
    assert refused(done), done.err
    assert "spectral_norm keeps body.1.parametrizations.weight.0._u" in done.err
    assert "trained" not in done.out


def test_a_wrapper_is_refused_for_every_method(dua: Callable[..., Done]) -> None:
    done = dua("parallel", "method=lwf")
    assert refused(done), done.err
    assert "DataParallel hides the head" in done.err
