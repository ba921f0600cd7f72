"""Classifiers of timm as body and head: of a small module in its place, and of timm itself where it is installed."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dua_lightning.errors import InputError
from dua_lightning.nets import Network, from_timm
from dua_lightning.params import body_names

SHAPE = (3, 64, 64)
REAL = {
    "vit_tiny_patch16_224": {"img_size": 64},
    "resnet18": {},
    "mobilenetv3_small_050": {},
    "convnext_atto": {},
    "resnetv2_50": {"layers": (1, 1, 1, 1)},
}


class Small(nn.Module):
    """A network with timm's attributes."""

    def __init__(self, in_chans: int, num_classes: int, width: int) -> None:
        super().__init__()
        self.conv, self.head_hidden_size = nn.Conv2d(in_chans, width, 4, 4), width
        self.fc = nn.Linear(width, num_classes) if num_classes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).mean((2, 3)))


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A module in the place of timm with the network `small_net`, whose pretrained weights have the tag `v1`.

    Its attribute `asked` is where the weights were taken from.
    """
    module: Any = ModuleType("timm")
    module.asked, module.online = [], True

    def get_pretrained_cfg(name: str) -> SimpleNamespace:
        tag = name.partition(".")[2] or "v1"
        if tag not in ("v1", "none"):
            raise RuntimeError(f"Invalid pretrained tag ({tag}) for small_net.")
        return SimpleNamespace(tag=tag, has_weights=tag == "v1")

    def create_model(
        name: str,
        in_chans: int,
        num_classes: int,
        pretrained: bool = False,
        pretrained_cfg_overlay: dict[str, Any] | None = None,
        width: int = 4,
    ) -> Small:
        get_pretrained_cfg(name)
        net = Small(in_chans, num_classes, width)
        if pretrained:
            file = (pretrained_cfg_overlay or {}).get("file")
            if not module.online and file is None:
                raise FileNotFoundError("the hub\ncannot be reached")
            module.asked.append(file)
        return net

    module.list_models = lambda: ["small_net"]
    module.get_pretrained_cfg, module.create_model = get_pretrained_cfg, create_model
    monkeypatch.setitem(sys.modules, "timm", module)
    return module


def build(name: str = "small_net", **arguments: object) -> Network:
    return from_timm(**{"name": name, "shape": SHAPE, "classes": 5, "seed": 1, **arguments})


def test_the_head_takes_the_place_of_the_last_layer(timm: SimpleNamespace) -> None:
    net = build(shape=(1, 8, 8), width=6)
    assert net(torch.rand(2, 1, 8, 8)).shape == (2, 5)
    assert body_names(net).keys() == {"body.conv.weight", "body.conv.bias"}
    assert net.body.conv.weight.shape == (6, 1, 4, 4)
    assert not timm.asked


@pytest.mark.usefixtures("timm")
def test_weights_come_from_the_seed_alone() -> None:
    before = torch.get_rng_state()
    a, b, c = (build(seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(a[key], b[key]) and not torch.equal(a[key], c[key]) for key in a)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("place", ["", "weights"])
def test_pretrained_weights_are_looked_for_in_the_folder_first(
    place: str, timm: SimpleNamespace, tmp_path: Path
) -> None:
    build(weights="imagenet", folder=tmp_path)
    file = tmp_path / place / "small_net.v1.safetensors"
    file.parent.mkdir(exist_ok=True)
    file.touch()
    build(weights="imagenet", folder=tmp_path)
    build("small_net.v1", weights="imagenet", folder=tmp_path)
    assert timm.asked == [None, str(file), str(file)]


@pytest.mark.usefixtures("timm")
def test_a_file_of_weights_is_loaded(tmp_path: Path) -> None:
    save_file(build(seed=2).body.state_dict(), tmp_path / "w.safetensors")
    state = build(weights=str(tmp_path / "w.safetensors")).body.state_dict()
    assert all(torch.equal(state[key], tensor) for key, tensor in load_file(tmp_path / "w.safetensors").items())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"name": "smal_net"}, "timm has no classifier smal_net; did you mean small_net?"),
        ({"name": "zzz"}, "it has small_net"),
        ({"name": "small_net.v2"}, r"timm cannot make small_net\.v2 with weights=none: Invalid pretrained tag"),
        ({"name": "small_net.none", "weights": "imagenet"}, "it has no pretrained weights; use weights=PATH"),
        ({"weights": "imagenet"}, "with weights=imagenet: the hub cannot be reached; use weights=PATH"),
        ({"weights": "IMAGENET1K_V2"}, "weights=IMAGENET1K_V2 is no file"),
        ({"widht": 2}, "timm cannot make small_net with {'widht': 2}"),
        ({"shape": (3, 2, 2)}, r"small_net cannot take inputs of the shape \(3, 2, 2\)"),
    ],
    ids=str,
)
def test_what_timm_cannot_make_is_one_line(wrong: dict[str, object], said: str, timm: SimpleNamespace) -> None:
    timm.online = False
    with pytest.raises(InputError, match=said) as caught:
        build(**wrong)
    assert "\n" not in str(caught.value)


def test_without_timm_the_line_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match=r"small_net needs the package timm .* pip install 'dua_lightning\[timm\]'"):
        build()


@pytest.mark.parametrize("name", REAL)
def test_the_body_is_timms_network_without_its_last_layer(name: str, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    with torch.random.fork_rng(devices=[]):
        theirs = timm.create_model(name, **REAL[name]).eval()
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    ours = build(name, weights=str(tmp_path / "w.pth"), **REAL[name]).eval()
    x = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = theirs.forward_head(theirs.forward_features(x), pre_logits=True)
        torch.testing.assert_close(ours.body(x), features, rtol=0, atol=0)
    assert ours(x).shape == (2, 5)


def test_timm_reads_its_weights_from_the_folder_and_fits_them_to_the_size(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    name = "vit_tiny_patch16_224"
    file = tmp_path / f"{name}.{timm.get_pretrained_cfg(name).tag}.safetensors"
    state = timm.create_model(name).state_dict()
    save_file(state, file)
    net = build(name, weights="imagenet", folder=tmp_path, img_size=64)
    assert net.body.pos_embed.shape == (1, 17, 192)
    torch.testing.assert_close(net.body.blocks[0].attn.qkv.weight, state["blocks.0.attn.qkv.weight"], rtol=0, atol=0)
