"""A file of tensors and values: the same bits come back, or one clear refusal."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from dua_lightning.errors import InputError
from dua_lightning.store import tensorfile
from dua_lightning.store.tensorfile import fingerprint, load, save

TENSORS = {
    "weight": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).T,
    "count": torch.tensor(7),
    "mask": torch.tensor([True, False]),
    "half": torch.tensor([0.1, 2.0], dtype=torch.bfloat16),
    "random": torch.random.get_rng_state(),
    "empty": torch.zeros(0, 3),
}
VALUES = {"accuracy": 0.1 + 0.2, "curve": [{"loss": 1 / 3}], "name": "größe"}


def test_what_is_written_comes_back_bit_for_bit(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.safetensors"
    save(path, TENSORS, VALUES)
    tensors, values = load(path)
    assert values == VALUES
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "other",
    [
        {"a": torch.zeros(4)},
        {"b": torch.zeros(2, 2)},
        {"a": torch.zeros(2, 2, dtype=torch.int32)},
        {"a": torch.tensor([[0.0, 0.0], [0.0, 1e-45]])},
        {"a": torch.zeros(2, 2), "b": torch.zeros(0)},
    ],
)
def test_a_fingerprint_sees_names_types_shapes_and_bytes(other: dict[str, Tensor]) -> None:
    assert fingerprint({"a": torch.zeros(2, 2)}) == fingerprint({"a": torch.zeros(2, 2)})
    assert fingerprint({"a": torch.zeros(2, 2)}) != fingerprint(other)
    assert fingerprint({"a": torch.zeros(2, 2)}) != fingerprint({"a": torch.zeros(2, 2)}, "text")


class Payload:
    """Unpickling it makes the file `executed`."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("executed",)


def refused(path: Path) -> str:
    with pytest.raises(InputError, match="delete it") as raised:
        load(path)
    text = str(raised.value)
    assert str(path) in text
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 100, pickle.dumps(Payload()), b"PK\3\4 a zip"], ids=["empty", "zeros", "pickle", "zip"]
)
def test_another_kind_of_file_is_refused(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    refused(path)
    assert not Path("executed").exists()


def test_a_folder_and_a_file_of_other_origin_are_refused(tmp_path: Path) -> None:
    refused(tmp_path)
    path = tmp_path / "a.safetensors"
    for metadata in (None, {"values": "{}"}, {"sha256": "0"}):
        save_file({"a": torch.zeros(2)}, path, metadata=metadata)
        assert "its content is not what was written" in refused(path)


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    save(path, TENSORS, VALUES)
    before = path.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise SafetensorError("No space left on device (os error 28)")

    monkeypatch.setattr(tensorfile, "save_file", full)
    with pytest.raises((OSError, InputError), match="No space left"):
        save(path, {}, {})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_every_flipped_bit_and_every_cut_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save(path, {"weight": TENSORS["weight"], "count": TENSORS["count"]}, {"epoch": 3})
    good = path.read_bytes()
    for place in range(len(good)):
        path.write_bytes(good[:place] + bytes([good[place] ^ 4]) + good[place + 1 :])
        refused(path)
    for length in range(0, len(good), 7):
        path.write_bytes(good[:length])
        refused(path)


def test_a_file_of_tensors_tells_where_each_of_them_is(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor([7], dtype=torch.int16)}
    save(tmp_path / "x.safetensors", tensors, {"note": 1})
    content = (tmp_path / "x.safetensors").read_bytes()
    places = tensorfile.places(tmp_path / "x.safetensors")
    assert places.keys() == tensors.keys()
    for name, (start, stop) in places.items():
        assert content[start:stop] == tensors[name].numpy().tobytes()
