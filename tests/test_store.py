"""The store of experts: every bit comes back, a file is whole or absent, damage is said."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dua_lightning import store as module
from dua_lightning.errors import InputError
from dua_lightning.store import ExpertStore, digest
from dua_lightning.tasks import Expert, Task
from tests.nets import law
from tests.tiny import same

TASK = Task("a", slice(0, 2))
KEY = digest("key")

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def expert(fill: float = 0.0) -> Expert:
    """A state with every kind of tensor that a state dictionary holds, and numbers that text would not keep."""
    values = torch.tensor([0.1 + fill, -0.0, 1e-45, torch.inf, torch.nan, torch.pi])
    state = {
        "body.0.weight": values.view(2, 3),
        "body.1.running_mean": torch.zeros(0),
        "body.1.num_batches_tracked": torch.tensor(2**40 + 1),
        "head.weight": values.double().view(3, 2),
        "mask": torch.tensor([True, False]),
    }
    return Expert(TASK, state)


def bits(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.contiguous().flatten().view(torch.uint8) for name, tensor in state.items()}


def files(root: Path) -> list[str]:
    return sorted(path.name for path in root.rglob("*"))


def test_an_expert_comes_back_bit_for_bit_with_shapes_and_types(tmp_path: Path):
    ExpertStore(tmp_path / "new" / "folder").put(KEY, expert())
    found = ExpertStore(tmp_path / "new" / "folder").get(KEY, TASK)
    assert found.task == TASK
    assert same(bits(found.state), bits(expert().state))
    for name, tensor in expert().state.items():
        assert (found.state[name].dtype, found.state[name].shape) == (tensor.dtype, tensor.shape)


def test_an_expert_lies_under_its_key_alone(tmp_path: Path):
    store = ExpertStore(tmp_path)
    assert store.get(KEY, TASK) is None
    store.put(KEY, expert())
    assert files(tmp_path) == [f"{KEY}.safetensors"]
    assert store.get(digest("another key"), TASK) is None


def test_putting_again_replaces(tmp_path: Path):
    store = ExpertStore(tmp_path)
    store.put(KEY, expert(0.0))
    store.put(KEY, expert(1.0))
    assert same(bits(store.get(KEY, TASK).state), bits(expert(1.0).state))
    assert len(files(tmp_path)) == 1


def test_what_was_read_does_not_change_with_the_file(tmp_path: Path):
    store = ExpertStore(tmp_path)
    store.put(KEY, expert(0.0))
    found = store.get(KEY, TASK)
    store.put(KEY, expert(1.0))
    (tmp_path / f"{KEY}.safetensors").write_bytes(b"gone")
    assert same(bits(found.state), bits(expert(0.0).state))


def fail_half_way(state: dict[str, torch.Tensor], path: Path, **_: object) -> None:
    Path(path).write_bytes(b"half a file")
    raise OSError("no space left on device")


def stopped_half_way(state: dict[str, torch.Tensor], path: Path, **_: object) -> None:
    Path(path).write_bytes(b"half a file")
    raise KeyboardInterrupt


@pytest.mark.parametrize(("save", "error"), [(fail_half_way, OSError), (stopped_half_way, KeyboardInterrupt)])
@pytest.mark.parametrize("before", [False, True])
def test_a_failing_save_leaves_the_folder_as_it_was(tmp_path: Path, monkeypatch, save, error, before: bool):
    store = ExpertStore(tmp_path)
    if before:
        store.put(KEY, expert())
    there = files(tmp_path)
    monkeypatch.setattr(module, "save_file", save)
    with pytest.raises(error):
        store.put(KEY, expert(1.0))
    assert files(tmp_path) == there
    found = store.get(KEY, TASK)
    assert same(bits(found.state), bits(expert().state)) if before else found is None


def test_a_file_that_is_being_written_is_not_yet_there(tmp_path: Path, monkeypatch):
    store, save, seen = ExpertStore(tmp_path), module.save_file, []

    def look(state: dict[str, torch.Tensor], path: Path, **more: object) -> None:
        save(state, path, **more)
        seen.append(store.get(KEY, TASK))

    monkeypatch.setattr(module, "save_file", look)
    store.put(KEY, expert())
    assert seen == [None]
    assert store.get(KEY, TASK) is not None


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_file_cut_short_is_an_input_error_that_names_it(tmp_path: Path, share: float):
    store = ExpertStore(tmp_path)
    store.put(KEY, expert())
    path = tmp_path / f"{KEY}.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match="delete it to train it again") as raised:
        store.get(KEY, TASK)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [b"not an expert", b"\x80\x04K\x01.", b"\x00" * 64, b"\xff" * 64])
def test_a_file_of_another_kind_is_an_input_error_and_nothing_is_unpickled(tmp_path: Path, content: bytes):
    (tmp_path / f"{KEY}.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=KEY):
        ExpertStore(tmp_path).get(KEY, TASK)


@law
@given(st.dictionaries(st.text(), plain, min_size=2, max_size=5), st.randoms())
def test_the_digest_is_the_same_whatever_the_order_of_keys(settings: dict[str, object], random):
    names = list(settings)
    random.shuffle(names)
    shuffled = {name: settings[name] for name in names}
    assert digest(shuffled, "task", {"inner": shuffled}) == digest(settings, "task", {"inner": settings})


@law
@given(plain, plain)
def test_the_digest_tells_values_apart(a: object, b: object):
    assert (digest({"value": a}) == digest({"value": b})) == alike(a, b)


def alike(a: object, b: object) -> bool:
    """Equal and of the same types, dictionaries in any order."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(alike(a[name], b[name]) for name in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(alike, a, b))
    return repr(a) == repr(b)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (({"lr": 1e-3},), ({"lr": 1.0000000001e-3},)),
        (({"lr": 1},), ({"lr": "1"},)),
        (({"lr": 1, "seed": 2},), ({"lr": 2, "seed": 1},)),
        (("ab", "c"), ("a", "bc")),
        (("a", "b"), ("b", "a")),
        (("a",), ("a", "a")),
        (({"tasks": ["a", "b"]},), ({"tasks": ["b", "a"]},)),
    ],
)
def test_digests_differ(a: tuple[object, ...], b: tuple[object, ...]):
    assert digest(*a) != digest(*b)


def test_the_digest_is_a_file_name_and_the_same_in_every_process():
    assert digest({"lr": 0.001, "model": "mlp"}, "a") == (
        "962ca89e26b323bbdeb6e2a4a19ec571bf1c23ee646cfb310f1009dec461e203"
    )


def test_a_value_without_an_order_has_no_digest():
    with pytest.raises(ValueError, match="JSON"):
        digest({"lr": float("nan")})
