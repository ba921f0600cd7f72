"""The folder of a personal model: each tensor once, whole or not at all, and nobody's code but by leave."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dua_lightning.adapt import AdaBN, Chain
from dua_lightning.data.preprocessing import Preprocessing
from dua_lightning.errors import InputError
from dua_lightning.nets import mlp
from dua_lightning.params import clone
from dua_lightning.personal import PersonalModel, files, formats, load, save
from dua_lightning.personal.network import portable, rebuild
from dua_lightning.store.store import digest
from dua_lightning.tasks import Batch, Task
from tests.helpers.nets import equal

TENSORS = ("safetensors",)
TASKS = (Task("shared", slice(0, 2)), Task("a/b", slice(2, 5)))
PICTURE = Preprocessing(8, 6, (0.5, 0.25, 0.125), (0.1, 0.2, 0.3))


def model(user: str = "ann") -> PersonalModel:
    """Two tasks that have all but the head in common, as a merge makes them."""
    net = mlp((3, 6, 6), 5, seed=1, width=64)
    first = clone(net.state_dict())
    return PersonalModel(
        user=user,
        row="mean-IMM",
        tasks=TASKS,
        categories=("a", "b", "c", "d", "e"),
        shape=(3, 6, 6),
        net=net,
        # Equal numbers in other memory, as an adaptation leaves them.
        states={"shared": first, "a/b": {**clone(first), "head.bias": first["head.bias"] + 1}},
        preprocessing=PICTURE,
        network={"name": "mlp", "_target_": "dua_lightning.nets.mlp", "width": 64},
        seed=1,
        settings={"phi": {"_target_": "dua_lightning.adapt.Unchanged"}},
        provenance={"run": "r"},
    )


def test_a_model_comes_back_as_it_was(tmp_path: Path) -> None:
    made = model()
    found = load(save(made, tmp_path, TENSORS))
    equal(found.states, made.states)
    same = ("user", "row", "tasks", "categories", "shape", "preprocessing", "seed", "settings", "provenance")
    assert all(getattr(found, name) == getattr(made, name) for name in same)
    x = torch.randn(3, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    for task in TASKS:
        equal(found.module(task.name)(x), made.module(task.name)(x))
        equal(found.probabilities(task.name, x), made.module(task.name)(x).softmax(1))
    assert found.classes("a/b") == ("c", "d", "e")


def test_tensors_that_tasks_share_are_stored_once(tmp_path: Path) -> None:
    folder = save(model(), tmp_path, TENSORS)
    tensors = load_file(folder / "model.safetensors")
    own = [key for key in tensors if key.startswith("task/")]
    assert len(tensors) == len(model().net.state_dict()) + 1
    assert sorted(own) == ["task/a_b-c14cddc0/head.bias", "task/shared/head.bias"]
    weights = sum(p.nbytes for p in model().net.parameters())
    assert weights < (folder / "model.safetensors").stat().st_size < 1.2 * weights


def test_a_weight_that_is_tied_is_stored_once_and_read_back(tmp_path: Path) -> None:
    made = model()
    made.net.body[3].weight = torch.nn.Parameter(torch.eye(64))
    made.net.body.add_module("5", torch.nn.Linear(64, 64))
    made.net.body[5].weight = made.net.body[3].weight
    state = made.net.state_dict()
    folder = save(replace(made, states={"shared": state, "a/b": state}), tmp_path, TENSORS)
    assert "shared/body.5.weight" not in load_file(folder / "model.safetensors")
    found = replace(load(folder), net=made.net)
    x = torch.ones(1, 3, 6, 6)
    torch.testing.assert_close(found.module("a/b")(x), made.net(x)[:, 2:])


def test_the_same_model_is_kept_and_another_replaces_it(tmp_path: Path) -> None:
    made = model()
    folder = save(made, tmp_path, ("pt2",))
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert sorted(before) == ["a_b-c14cddc0.pt2", "model.json", "model.safetensors", "shared.pt2"]
    save(made, tmp_path, ("pt2",))
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    save(made, tmp_path, TENSORS)
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.safetensors"]
    (folder / "model.safetensors").write_bytes(b"x")
    save(made, tmp_path, TENSORS)
    equal(load(folder).states, made.states)
    assert [path.name for path in tmp_path.iterdir()] == ["ann"]


def test_what_is_not_the_same_users_model_is_left_alone(tmp_path: Path) -> None:
    folder = save(model(), tmp_path, TENSORS)
    folder.rename(tmp_path / "bob")
    with pytest.raises(InputError, match="bob holds the model of user ann, which the model of bob would replace"):
        save(model("bob"), tmp_path, TENSORS)
    (tmp_path / "eve").mkdir()
    (tmp_path / "eve" / "mine.txt").touch()
    with pytest.raises(InputError, match=r"eve holds mine\.txt, which the model of eve would replace; choose another"):
        save(model("eve"), tmp_path, TENSORS)
    assert (tmp_path / "eve" / "mine.txt").exists()


def test_a_save_that_fails_leaves_the_old_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(model(), tmp_path, TENSORS)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_task", full)
    with pytest.raises(InputError, match=r"ann cannot be written \(No space left on device"):
        save(model(), tmp_path, ("pt2",))
    assert load(folder).user == "ann"
    assert [path.name for path in tmp_path.iterdir()] == ["ann"]


def test_an_old_model_comes_back_where_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save(model(), tmp_path, TENSORS)
    rename = Path.rename

    def refusing(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError(16, "Device or resource busy")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refusing)
    with pytest.raises(InputError, match=r"ann cannot be written \(Device or resource busy"):
        save(replace(model(), row="EWC"), tmp_path, TENSORS)
    assert load(folder).row == "mean-IMM"
    assert [path.name for path in tmp_path.iterdir()] == ["ann"]


@pytest.mark.parametrize("user", ["..", ".", "", "a/b", "小红", "con\n", " "])
def test_a_user_of_any_name_has_a_folder_below(tmp_path: Path, user: str) -> None:
    folder = save(model(user), tmp_path / "out", TENSORS)
    assert folder.parent == tmp_path / "out"
    assert folder.resolve().parent == (tmp_path / "out").resolve()
    assert load(folder).user == user


@pytest.mark.parametrize("file", ["model.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["gone", "short", "changed"])
def test_a_damaged_folder_is_refused(tmp_path: Path, file: str, damage: str) -> None:
    folder = save(model(), tmp_path, TENSORS)
    content = bytearray((folder / file).read_bytes())
    content[-20] ^= 1
    match damage:
        case "gone":
            (folder / file).unlink()
        case "short":
            (folder / file).write_bytes(content[: len(content) // 2])
        case "changed":
            (folder / file).write_bytes(content)
    with pytest.raises(InputError, match=r"cannot be used: .*; export the model again|has no model\.json; name the"):
        load(folder)


def test_another_version_and_a_page_that_lacks_something_are_refused(tmp_path: Path) -> None:
    folder = save(model(), tmp_path, TENSORS)
    rewritten(folder, format=2)
    with pytest.raises(InputError, match="has the form 2, and this program reads 1; export it again"):
        load(folder)
    rewritten(folder, format=1, row={})
    with pytest.raises(InputError, match=r"model\.json lacks something \('settings'\); export the model again"):
        load(folder)


@pytest.mark.parametrize(
    "values",
    [
        {"network": {"_target_": "os.mkdir", "path": "x"}},
        {"network": {"_target_": "dua_lightning.nets.weights.os.mkdir", "path": "x"}},
        {"network": {"_target_": "dua_lightning.nets.mlp", "width": {"_target_": "os.mkdir", "path": "x"}}},
        {"row": {"label": "x", "settings": {"phi": {"_target_": "os.mkdir", "path": "x"}}}},
    ],
    ids=str,
)
def test_code_from_outside_is_not_called_without_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: dict[str, object]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = save(model(), tmp_path, TENSORS)
    rewritten(folder, **values)
    with pytest.raises(
        InputError, match=r"^the model is made by .*mkdir, which is code from outside; .* \(--code (os|dua_lightning)\)"
    ):
        load(folder)
    assert not (tmp_path / "x").exists()


def rewritten(folder: Path, **values: object) -> None:
    """The page as somebody else could have written it."""
    about = json.loads((folder / "model.json").read_text()) | values
    del about["sha256"]
    (folder / "model.json").write_text(json.dumps({**about, "sha256": digest(about)}))


def test_weights_are_neither_read_nor_downloaded_for_a_model() -> None:
    asked = {"name": "x", "_target_": "dua_lightning.nets.from_torchvision", "weights": "imagenet", "folder": "data"}
    assert portable(asked) == {**asked, "weights": "none", "folder": None}
    own = {"_target_": "mine.net", "weights": "mine.safetensors"}
    assert portable(own) == own
    net = rebuild({**asked, "name": "mobilenet_v2"}, (3, 32, 32), 5, seed=1)
    assert net.head.out_features == 5


def test_a_model_adapts_by_adabn_where_its_row_needs_labels_or_nothing() -> None:
    plain = {"_target_": "dua_lightning.adapt.Unchanged"}
    labels = {"_target_": "dua_lightning.adapt.Finetune"}
    own = {"_target_": "dua_lightning.adapt.AdaBN", "statistics": "batch"}
    kinds = [replace(model(), settings={"phi": phi}).adaptation() for phi in (plain, labels, own)]
    steps = replace(model(), settings={"phi": {"_target_": "dua_lightning.adapt.Chain", "steps": [own]}}).adaptation()
    assert steps == Chain([AdaBN(statistics="batch")])
    assert [(type(kind).__name__, kind.statistics) for kind in kinds] == [
        *[("AdaBN", "exact")] * 2,
        ("AdaBN", "batch"),
    ]


def test_adapting_changes_the_statistics_of_one_task_alone() -> None:
    net = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.Flatten(), torch.nn.Linear(108, 5))
    state = clone(net.state_dict())
    made = replace(model(), net=net, states={"shared": state, "a/b": state})
    x = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(0)) + 5
    data: list[Batch] = [(x, None)]
    found = made.adapted("a/b", data)
    torch.testing.assert_close(found.states["a/b"]["0.running_mean"], x.mean((0, 2, 3)))
    assert found.states["shared"] is state
    equal(made.states["a/b"], net.state_dict())


def test_a_task_that_there_is_not_is_refused() -> None:
    with pytest.raises(InputError, match="there is no task kitchen; there are shared, a/b"):
        model().classes("kitchen")


def test_a_format_that_there_is_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="tflite is not a format; there are safetensors, pt2, onnx, pte"):
        save(model(), tmp_path, ("tflite",))


@pytest.mark.parametrize(("kind", "extra"), [("onnx", "export"), ("pte", "executorch")])
def test_a_format_without_its_packages_says_how_to_install_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, extra: str
) -> None:
    monkeypatch.setitem(formats.NEEDED, kind, ("package_that_is_not_there",))
    with pytest.raises(InputError, match=rf"pip install 'dua_lightning\[{extra}\]'"):
        save(model(), tmp_path, (kind,))
