"""The paper's networks: those of torchvision at full width, and smaller ones for small inputs."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from lightning import LightningModule, Trainer
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from dua_lightning.errors import InputError
from dua_lightning.nets import Network, alexnet, mlp, vgg11, vgg11_bn
from dua_lightning.nets.weights import PRETRAINED
from dua_lightning.params import State, body_names
from dua_lightning.store.files import file_sha256
from dua_lightning.store.store import Recipe, Store
from tests.helpers.tiny import same

SCENES = {"alexnet": alexnet, "vgg11": vgg11, "vgg11_bn": vgg11_bn}
Build = Callable[..., Network]


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENES)
def test_at_full_width_it_is_torchvisions_network(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, name)(weights=None).eval()
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    ours = SCENES[name]((3, 64, 64), 5, seed=1, weights=str(tmp_path / "weights.pth")).eval()
    x = torch.randn(2, 3, 64, 64)
    theirs.classifier[-1] = nn.Identity()
    with torch.no_grad():
        torch.testing.assert_close(ours.body(x), theirs(x), rtol=0, atol=0)
    assert ours(x).shape == (2, 5)


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("width", [1 / 16, 0.1])
def test_a_narrow_network_has_all_layers_and_few_weights(name: str, width: float) -> None:
    net = SCENES[name]((3, 64, 64), 4, seed=1, width=width, pooled=1)
    full = getattr(torchvision.models, name)
    assert set(net.body.state_dict()) <= set(full(weights=None).state_dict())
    assert sum(p.numel() for p in net.parameters()) < 1_000_000
    assert net(torch.randn(2, 3, 64, 64)).shape == (2, 4)
    assert "head.weight" not in body_names(net)


@pytest.mark.parametrize("build", [*SCENES.values(), mlp])
def test_weights_come_from_the_seed_alone(build: Build) -> None:
    small = {} if build is mlp else {"width": 1 / 16, "pooled": 1}
    before = torch.get_rng_state()
    a, b, c = (build((3, 64, 64), 4, seed=seed, **small).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(a["head.weight"], c["head.weight"])
    assert torch.equal(before, torch.get_rng_state())


def test_safetensors_load_too(tmp_path: Path) -> None:
    given = vgg11_bn((3, 32, 32), 4, seed=5, width=1 / 16, pooled=1).body.state_dict()
    save_file(given, tmp_path / "w.safetensors")
    net = vgg11_bn((3, 32, 32), 4, seed=1, width=1 / 16, pooled=1, weights=str(tmp_path / "w.safetensors"))
    assert all(torch.equal(given[key], tensor) for key, tensor in net.body.state_dict().items())


class Evil:
    """A thing that a pickle may do when it is loaded."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("touched"),))


def test_a_pickle_is_never_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"features.0.weight": Evil()}, "evil.pth")
    with pytest.raises(InputError, match="cannot be read"):
        vgg11((3, 32, 32), 4, seed=1, weights="evil.pth")
    assert not Path("touched").exists()


def test_weights_that_cannot_be_used_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("no tensors")
    torch.save([1, 2], tmp_path / "list.pth")
    save_file({"features.0.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    for weights, word in {
        "text.pth": "cannot be read",
        "list.pth": "not a state dictionary",
        "other.safetensors": "does not fit",
        "absent.pth": "is no file",
    }.items():
        with pytest.raises(InputError, match=word) as caught:
            vgg11((3, 32, 32), 4, seed=1, weights=str(tmp_path / weights))
        assert "\n" not in str(caught.value)


def narrow(**given: str) -> Network:
    return vgg11_bn((3, 32, 32), 4, seed=1, width=1 / 50, pooled=1, **given)


class Lit(LightningModule):
    """A network in a module of Lightning's, whose checkpoint keeps settings as well."""

    def __init__(self, net: nn.Module, settings: dict[str, object]) -> None:
        super().__init__()
        self.save_hyperparameters(settings)
        self.model = net

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def checkpoint(module: LightningModule, path: Path) -> None:
    trainer = Trainer(accelerator="cpu", max_steps=1, logger=False, enable_checkpointing=False)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(path, weights_only=False)


def prefixed(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


GIVEN = vgg11_bn((3, 32, 32), 4, seed=5, width=1 / 50, pooled=1)
PLAIN = GIVEN.body.state_dict()
FILES = {
    "a state": PLAIN,
    "a network of this package": GIVEN.state_dict(),
    "of DataParallel": nn.DataParallel(GIVEN.body).state_dict(),
    "compiled": torch.compile(GIVEN.body, backend="eager").state_dict(),
    "averaged": AveragedModel(GIVEN).state_dict(),
    "an expert module": prefixed("net.", GIVEN.state_dict()),
    "nested": {"state_dict": PLAIN, "epoch": 3},
    "nested under another name": {"model": prefixed("module.", PLAIN), "best": torch.ones(()), "optimizer": {"lr": 1}},
}


@pytest.mark.parametrize("file", FILES)
def test_a_state_in_a_wrapper_or_a_checkpoint_loads_as_the_plain_one(file: str, tmp_path: Path) -> None:
    torch.save(FILES[file], tmp_path / "w.pth")
    assert same(narrow(weights=str(tmp_path / "w.pth")).body.state_dict(), PLAIN)


def test_files_that_this_program_and_lightning_write_load(tmp_path: Path) -> None:
    store, recipe = Store(tmp_path / "store"), Recipe("experts", {"task": "a"})
    store.put(recipe, GIVEN.state_dict())
    checkpoint(Lit(GIVEN, {"lr": 0.1}), tmp_path / "own.ckpt")
    for path in (store.path(recipe), tmp_path / "own.ckpt"):
        assert same(narrow(weights=str(path)).body.state_dict(), PLAIN)


def test_files_whose_meaning_is_not_plain_are_one_line_that_says_what_they_hold(tmp_path: Path) -> None:
    for name, value in {
        "two": {"model": PLAIN, "ema": PLAIN},
        "twice": prefixed("a.", PLAIN) | prefixed("b.", PLAIN),
        "part": prefixed("module.", dict(list(PLAIN.items())[:3])),
        "wide": vgg11_bn((3, 32, 32), 4, seed=1, width=1 / 16, pooled=1).state_dict(),
        "empty": {},
        "whole": GIVEN.body,
    }.items():
        torch.save(value, tmp_path / f"{name}.pth")
    checkpoint(Lit(GIVEN, {"folder": Path("x")}), tmp_path / "folder.pth")
    for name, told in {
        "two": r"holds several states \(model, ema\)",
        "twice": r"more than once, under a\., b\.",
        "part": r"has module\.features\.0\.weight; take module\. off",
        "wide": r"features\.0\.weight is \(4, 3, 3, 3\), and \(1, 3, 3, 3\) is needed; give width",
        "empty": "not a state dictionary",
        "whole": r"holds torch\.nn\.modules\.container\.Sequential\).*state_dict\(\)",
        "folder": r"holds pathlib\S*\.PosixPath\).*state_dict\(\)",
    }.items():
        with pytest.raises(InputError, match=told) as caught:
            narrow(weights=str(tmp_path / f"{name}.pth"))
        assert not {"\n", "\x1b"} & set(str(caught.value))


def test_imagenet_weights_without_network_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(url: str, **settings: object) -> None:
        assert settings["check_hash"]
        assert settings["weights_only"]
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    with pytest.raises(InputError, match=r"vgg11_bn could not be downloaded.*weights=none"):
        vgg11_bn((3, 32, 32), 4, seed=1, weights="imagenet")


def test_the_weights_that_come_with_the_package_are_those_of_their_file() -> None:
    (path,) = PRETRAINED.glob("*.safetensors")
    net = vgg11_bn((3, 32, 32), 4, seed=1, width=0.125, pooled=1, weights="embedded")
    given = load_file(path)
    assert given.keys() == net.body.state_dict().keys()
    assert all(torch.equal(given[key].to(tensor.dtype), tensor) for key, tensor in net.body.state_dict().items())
    assert file_sha256(path).startswith(path.stem.rpartition("-")[2])
    assert path.stat().st_size < 4 * 2**20


def test_embedded_weights_that_do_not_fit_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"weights=embedded has none of vgg11, but of vgg11_bn;"):
        vgg11((3, 32, 32), 4, seed=1, width=0.125, pooled=1, weights="embedded")
    with pytest.raises(InputError, match=r"weights=embedded does not fit.*embedded ones of width 0"):
        vgg11_bn((3, 32, 32), 4, seed=1, width=0.25, pooled=1, weights="embedded")
    (path,) = PRETRAINED.glob("*.safetensors")
    (tmp_path / path.name).write_bytes(path.read_bytes()[:-1] + b"x")
    monkeypatch.setattr("dua_lightning.nets.weights.PRETRAINED", tmp_path)
    with pytest.raises(InputError, match=r"SHA-256 digest"):
        vgg11_bn((3, 32, 32), 4, seed=1, width=0.125, pooled=1, weights="embedded")


@pytest.mark.parametrize(("build", "side"), [(alexnet, 62), (vgg11, 31), (vgg11_bn, 31)])
def test_an_input_that_would_be_pooled_away_is_refused(build: Build, side: int) -> None:
    with pytest.raises(InputError, match=f"{side}x{side}"):
        build((3, side, side), 4, seed=1, width=1 / 16, pooled=1)
    net = build((3, side + 1, side + 1), 4, seed=1, width=1 / 16, pooled=1).eval()
    assert net(torch.zeros(1, 3, side + 1, side + 1)).shape == (1, 4)
