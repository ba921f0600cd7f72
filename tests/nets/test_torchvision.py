"""Classifiers of torchvision as body and head."""

import hashlib
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from dua_lightning.errors import InputError
from dua_lightning.nets import Network, from_torchvision
from dua_lightning.params import body_names

SHAPE = (3, 64, 64)
LAST = {
    "mobilenet_v3_small": "classifier.3",
    "resnet18": "fc",
    "shufflenet_v2_x0_5": "fc",
}


def build(name: str = "mobilenet_v2", **arguments: object) -> Network:
    return from_torchvision(**{"name": name, "shape": SHAPE, "classes": 5, "seed": 1, **arguments})


@pytest.mark.parametrize("name", LAST)
def test_the_body_is_torchvisions_network_without_its_last_layer(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(name, weights=None).eval()
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    ours = build(name, weights=str(tmp_path / "weights.pth")).eval()
    assert set(ours.body.state_dict()) == {key for key in theirs.state_dict() if not key.startswith(f"{LAST[name]}.")}
    theirs.set_submodule(LAST[name], nn.Identity())
    x = torch.randn(2, *SHAPE)
    with torch.no_grad():
        torch.testing.assert_close(ours.body(x), theirs(x), rtol=0, atol=0)
    assert ours(x).shape == (2, 5)
    assert not {"head.weight", "head.bias"} & body_names(ours).keys()


def test_further_arguments_are_torchvisions() -> None:
    vit = build("vit_b_32", image_size=64)
    assert vit(torch.randn(2, *SHAPE)).shape == (2, 5)
    assert vit.body.encoder.pos_embedding.shape == (1, 5, 768)


def test_weights_come_from_the_seed_alone() -> None:
    before = torch.get_rng_state()
    a, b, c = (build("shufflenet_v2_x0_5", seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(a["body.conv1.0.weight"], c["body.conv1.0.weight"])
    assert torch.equal(before, torch.get_rng_state())


def test_it_is_ready_to_be_trained() -> None:
    net = build("shufflenet_v2_x0_5")
    assert all(part.training for part in net.modules())
    assert all(float(t.abs().max()) == 0 for name, t in net.state_dict().items() if name.endswith("running_mean"))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"name": "mobilenet2"}, "torchvision has no classifier mobilenet2; did you mean mobilenet_v2"),
        ({"name": "zzz"}, "it has alexnet, "),
        ({"name": "squeezenet1_0"}, "squeezenet1_0 has no last linear layer"),
        ({"name": "googlenet", "init_weights": False}, "give it the argument aux_logits=False"),
        ({"name": "vit_b_32"}, "vit_b_32 cannot take inputs of the shape .*64.* 224"),
        ({"shape": (1, 64, 64)}, "mobilenet_v2 cannot take inputs of the shape .* 3 channels"),
        ({"widht_mult": 2}, "torchvision cannot make mobilenet_v2 with .*widht_mult"),
    ],
)
def test_what_torchvision_cannot_make_is_one_line(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        build(**wrong)
    assert "\n" not in str(caught.value)


def published(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """A file of weights, named as torchvision names them, and torchvision's address of it."""
    folder.mkdir(parents=True, exist_ok=True)
    state = torchvision.models.shufflenet_v2_x0_5(weights=None).state_dict()
    torch.save(state, folder / "plain.pth")
    digest = hashlib.sha256((folder / "plain.pth").read_bytes()).hexdigest()
    file = (folder / "plain.pth").rename(folder / f"net-{digest[:8]}.pth")
    enum = torchvision.models.get_model_weights("shufflenet_v2_x0_5")
    monkeypatch.setattr(enum, "url", f"https://nowhere.invalid/{file.name}", raising=False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(folder / "no cache"))
    return state


@pytest.mark.parametrize("place", ["", "weights"])
def test_imagenet_weights_are_found_in_the_folder(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = published(tmp_path / place, monkeypatch)
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_: pytest.fail("downloaded"))
    net = build("shufflenet_v2_x0_5", weights="imagenet", folder=tmp_path)
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.body.state_dict().items())


def test_imagenet_weights_are_downloaded_to_the_folder_with_their_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(tmp_path / "web", monkeypatch)
    (file,) = (tmp_path / "web").glob("net-*.pth")
    asked = []

    def download(url: str, path: str, prefix: str) -> None:
        asked.append((url, prefix))
        Path(path).write_bytes(file.read_bytes())

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    for _ in range(2):
        build("shufflenet_v2_x0_5", weights="imagenet", folder=tmp_path / "data")
    assert asked == [(f"https://nowhere.invalid/{file.name}", file.stem.partition("-")[2])]


def test_weights_that_cannot_be_downloaded_say_where_to_put_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(tmp_path / "web", monkeypatch)

    def broken(*_: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", broken)
    with pytest.raises(InputError, match=r"https://nowhere.* \(no network\); put the file"):
        build("shufflenet_v2_x0_5", weights="imagenet", folder=tmp_path / "data")


def test_other_weights_of_torchvision_go_by_its_name_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def broken(url: str, *_: object) -> None:
        asked.append(url)
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", broken)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    for weights in ("imagenet", "IMAGENET1K_V1", "IMAGENET1K_V2"):
        with pytest.raises(InputError, match="no network"):
            build(weights=weights)
    assert asked[0] == asked[1] != asked[2]
    with pytest.raises(InputError, match="no weights IMAGENET1K_V3 of mobilenet_v2; it has IMAGENET1K_V1, "):
        build(weights="IMAGENET1K_V3")


def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net-01234567.pth"
    torch.save(build("shufflenet_v2_x0_5").body.state_dict(), path)
    with pytest.raises(InputError, match="by its name it begins with 01234567"):
        build("shufflenet_v2_x0_5", weights=str(path))


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    torch.save(build("shufflenet_v2_x0_5").body.state_dict(), tmp_path / "w.pth")
    with pytest.raises(InputError, match="does not fit this mobilenet_v2: it lacks features"):
        build(weights=str(tmp_path / "w.pth"))
