"""The store: every bit comes back, a file is whole or absent, damage is said, two processes make one thing once."""

import errno
import os
import pickle
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from dua_lightning.data.cache import cached
from dua_lightning.errors import InputError
from dua_lightning.store import tensorfile as module
from dua_lightning.store.store import DAY, KINDS, Recipe, Store, digest, read
from dua_lightning.store.tensorfile import Tensors, fingerprint
from tests.helpers.nets import law
from tests.helpers.tiny import same

RECIPE = Recipe("experts", {"task": "a", "lr": 0.1, "data": [1, None, "x"]})

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def tensors(fill: float = 0.0) -> Tensors:
    """A state with every kind of tensor that a state dictionary holds, and numbers that text would not keep."""
    values = torch.tensor([0.1 + fill, -0.0, 1e-45, torch.inf, torch.nan, torch.pi])
    return {
        "body.0.weight": values.view(2, 3),
        "body.1.running_mean": torch.zeros(0),
        "body.1.num_batches_tracked": torch.tensor(2**40 + 1),
        "head.weight": values.double().view(3, 2),
        "half": values.bfloat16(),
        "mask": torch.tensor([True, False]),
        "turned": values.view(2, 3).T,
        "one number": torch.tensor(1.0).expand(4),
    }


def bits(state: Tensors) -> Tensors:
    return {name: tensor.contiguous().flatten().view(torch.uint8) for name, tensor in state.items()}


def files(root: Path) -> list[str]:
    return sorted(path.name for path in root.rglob("*") if path.is_file())


@pytest.mark.parametrize("kind", KINDS)
def test_an_entry_comes_back_bit_for_bit_with_shapes_and_types(tmp_path: Path, kind: str):
    recipe = Recipe(kind, {"a": 1})
    Store(tmp_path / "new" / "folder").put(recipe, tensors())
    found = Store(tmp_path / "new" / "folder").get(recipe)
    assert same(bits(found), bits(tensors()))
    for name, tensor in tensors().items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
    assert files(tmp_path / "new") == [f"{recipe.key}.safetensors"]
    assert (tmp_path / "new" / "folder" / kind / f"{recipe.key}.safetensors").exists()


def test_an_entry_lies_under_its_kind_and_digest_alone(tmp_path: Path):
    store = Store(tmp_path)
    assert store.get(RECIPE) is None
    store.put(RECIPE, tensors())
    assert store.get(Recipe("experts", {**RECIPE.values, "lr": 0.2})) is None
    assert store.get(Recipe("priors", RECIPE.values)) is None


def test_an_entry_says_what_made_it_and_nothing_of_the_machine(tmp_path: Path):
    store = Store(tmp_path)
    store.put(RECIPE, tensors())
    about = read(store.path(RECIPE))[1]
    assert about.pop("made_at").endswith("+00:00")
    assert about.pop("torch") == torch.__version__
    assert about.pop("dua_lightning")
    assert about == {"kind": "experts", "made_of": dict(RECIPE.values)}


def test_putting_again_replaces(tmp_path: Path):
    store = Store(tmp_path)
    store.put(RECIPE, tensors(0.0))
    store.put(RECIPE, tensors(1.0))
    assert same(bits(store.get(RECIPE)), bits(tensors(1.0)))
    assert len(files(tmp_path)) == 1


def test_what_was_read_does_not_change_with_the_file(tmp_path: Path):
    store = Store(tmp_path)
    store.put(RECIPE, tensors(0.0))
    found = store.get(RECIPE)
    store.put(RECIPE, tensors(1.0))
    store.path(RECIPE).write_bytes(b"gone")
    assert same(bits(found), bits(tensors(0.0)))


def test_reading_is_a_use_and_looking_is_none(tmp_path: Path):
    store = Store(tmp_path)
    store.put(RECIPE, tensors())
    os.utime(store.path(RECIPE), (0, 0))
    assert list(store.verify()) == [(entry, None) for entry in store.entries()]
    assert store.entries()[0].used == 0
    store.get(RECIPE)
    assert time.time() - store.entries()[0].used < 60


def test_a_kept_entry_ends_an_unfinished_training(tmp_path: Path):
    store = Store(tmp_path)
    store.partial(RECIPE).mkdir(parents=True)
    (store.partial(RECIPE) / "last.ckpt").write_bytes(b"half")
    assert store.partial(RECIPE) == tmp_path / "experts" / f".{RECIPE.key}.partial"
    assert store.entries() == []
    store.put(RECIPE, tensors())
    assert files(tmp_path) == [f"{RECIPE.key}.safetensors"]


def failing(error: BaseException) -> Callable[..., None]:
    def save(state: Tensors, path: Path, *_: object) -> None:
        Path(path).write_bytes(b"half a file")
        raise error

    return save


@pytest.mark.parametrize(
    ("raised", "seen", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), InputError, "No space left on device"),
        (module.SafetensorError("I/O error: No space left on device"), InputError, "No space left on device"),
        (KeyboardInterrupt(), KeyboardInterrupt, None),
    ],
    ids=["OSError", "SafetensorError", "KeyboardInterrupt"],
)
@pytest.mark.parametrize("before", [False, True])
def test_a_failing_save_leaves_the_folder_as_it_was(tmp_path: Path, monkeypatch, raised, seen, words, before: bool):
    store = Store(tmp_path)
    if before:
        store.put(RECIPE, tensors())
    there = files(tmp_path)
    monkeypatch.setattr(module, "save_file", failing(raised))
    with pytest.raises(seen, match=words) as caught:
        store.put(RECIPE, tensors(1.0))
    assert seen is KeyboardInterrupt or str(store.path(RECIPE)) in str(caught.value)
    assert files(tmp_path) == there
    found = store.get(RECIPE)
    assert same(bits(found), bits(tensors())) if before else found is None


def test_a_disk_without_room_is_an_input_error(tmp_path: Path):
    """The limit on a file's size makes any disk full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(InputError, match=r"File too large.*make room"):
            Store(tmp_path).put(RECIPE, {"weight": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files(tmp_path) == []


def test_a_store_that_cannot_be_made_is_an_input_error(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        Store(tmp_path / "file").once(RECIPE, tensors)


def test_a_file_that_is_being_written_is_not_yet_there(tmp_path: Path, monkeypatch):
    store, save, seen = Store(tmp_path), module.save_file, []

    def look(state: Tensors, path: Path, *more: object) -> None:
        save(state, path, *more)
        seen.append((store.get(RECIPE), store.entries()))

    monkeypatch.setattr(module, "save_file", look)
    store.put(RECIPE, tensors())
    assert seen == [(None, [])]
    assert store.get(RECIPE) is not None


def cut(share: float) -> Callable[[bytes], bytes]:
    return lambda whole: whole[: int(share * len(whole))]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    **{f"cut to {share}": cut(share) for share in (0.0, 0.01, 0.5, 0.99)},
    "text": lambda _: b"not an entry",
    "a pickle": lambda _: pickle.dumps({"weight": 1}),
    "zeros": lambda _: bytes(64),
    "ones": lambda _: b"\xff" * 64,
    "a flipped bit at the end": lambda whole: whole[:-1] + bytes([whole[-1] ^ 1]),
    "another number in what made it": lambda whole: whole.replace(b"0.1", b"0.2", 1),
    "another name of a tensor": lambda whole: whole.replace(b'"mask"', b'"musk"', 1),
    "another type of a tensor": lambda whole: whole.replace(b'"BF16"', b'"F16" ', 1),
    "more at the end": lambda whole: whole + b"x",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_named_and_neither_used_nor_written_over(tmp_path: Path, kind: str, damage):
    store, recipe = Store(tmp_path), Recipe(kind, {"lr": 0.1})
    store.put(recipe, tensors())
    path = store.path(recipe)
    content = damage(path.read_bytes())
    assert content != path.read_bytes()
    path.write_bytes(content)
    for use in (store.get, lambda recipe: store.once(recipe, tensors)):
        with pytest.raises(InputError, match="delete it to make it again") as caught:
            use(recipe)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert path.read_bytes() == content
    ((_, problem),) = store.verify()
    assert problem == str(caught.value)
    path.unlink()
    assert same(bits(store.once(recipe, tensors)), bits(tensors()))


def forged(path: Path, about: str) -> None:
    """A file whose content is what its own digest says."""
    state = {"weight": torch.zeros(2)}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path, {"values": about, "sha256": fingerprint(state, about)})


@pytest.mark.parametrize(
    "about",
    [
        *("", "{", "[]", "1", "{}", '{"made_of": {"lr": 0.1}}', '{"kind": "experts", "made_of": {"lr": 0.2}}'),
        *('{"kind": "experts", "made_of": {"lr": NaN}}', '{"kind": 1, "made_of": {}}', "[" * 100_000),
    ],
    ids=["nothing", "half", "list", "number", "no recipe", "no kind", "another recipe", "NaN", "wrong kind", "deep"],
)
def test_a_file_that_does_not_say_what_its_name_does_is_not_used(tmp_path: Path, about: str):
    store, recipe = Store(tmp_path), Recipe("experts", {"lr": 0.1})
    forged(store.path(recipe), about)
    with pytest.raises(InputError):
        store.get(recipe)


def test_an_entry_under_another_name_or_of_another_kind_is_not_used(tmp_path: Path):
    store = Store(tmp_path)
    store.put(RECIPE, tensors())
    whole = store.path(RECIPE).read_bytes()
    for other in (Recipe("experts", {"another": 1}), Recipe("priors", RECIPE.values)):
        store.path(other).parent.mkdir(exist_ok=True)
        store.path(other).write_bytes(whole)
        with pytest.raises(InputError, match="its name is not that of what it holds"):
            store.get(other)
    # Under its own name, in another kind's folder.
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / store.path(RECIPE).name).write_bytes(whole)
    assert [problem is None for _, problem in store.verify()].count(False) == 3


def test_a_safetensors_file_of_another_program_is_not_used(tmp_path: Path):
    store = Store(tmp_path)
    store.path(RECIPE).parent.mkdir()
    save_file({"weight": torch.zeros(2)}, store.path(RECIPE))
    with pytest.raises(InputError, match="not what was written"):
        store.get(RECIPE)


def test_once_makes_what_is_missing_alone(tmp_path: Path):
    calls = []
    for _ in range(2):
        found = Store(tmp_path).once(RECIPE, lambda: calls.append(1) or tensors())
        assert same(bits(found), bits(tensors()))
    assert calls == [1]


@pytest.mark.slow
def test_of_two_processes_one_makes_an_entry_and_the_other_says_that_it_waits(tmp_path: Path):
    code = f"""
import sys, time, torch
from pathlib import Path
from dua_lightning.store.store import Recipe, Store
def make():
    print("made", flush=True)
    Path(sys.argv[1]).touch()
    until = time.monotonic() + 20
    while not Path({str(tmp_path / "waits")!r}).exists() and time.monotonic() < until:
        time.sleep(0.02)
    return {{"weight": torch.ones(3)}}
def say(text):
    print(text, flush=True)
    Path({str(tmp_path / "waits")!r}).touch()
found = Store(Path({str(tmp_path / "store")!r}), say).once(Recipe("experts", {{"a": 1}}), make)
print(found["weight"].tolist())
"""

    def start(name: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", code, str(tmp_path / name)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    first = start("first")
    while not (tmp_path / "first").exists():
        time.sleep(0.02)
    second = start("second")
    path = Store(tmp_path / "store").path(Recipe("experts", {"a": 1}))
    assert first.communicate(timeout=60)[0].splitlines() == ["made", "[1.0, 1.0, 1.0]"]
    waiting = f"waiting for another process that is making {path}"
    assert second.communicate(timeout=60)[0].splitlines() == [waiting, "[1.0, 1.0, 1.0]"]


def age(path: Path, days: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_bytes(b"x" * 7)
    os.utime(path, (time.time() - days * DAY,) * 2)
    return path


def test_collecting_removes_what_is_old_and_what_dead_processes_left(tmp_path: Path):
    data = tmp_path / "data"
    store = Store(tmp_path / "store", data_dir=data)
    old, new = Recipe("results", {"n": 1}), Recipe("results", {"n": 2})
    for recipe in (old, new):
        store.put(recipe, tensors())
    age(store.path(old), 31)
    age(store.path(new), 29)
    folder = store.path(old).parent
    cached(data / "images" / "cache", ["a"], (2, 3), lambda rows: None)
    (pictures,) = (data / "images" / "cache").glob("*.npy")
    gone = [
        store.path(old),
        age(pictures, 31),
        age(folder / ".abc.x1.new.safetensors", 2),
        age(folder / ".tmpAbCdEf", 2),
        age(store.partial(old), 31),
        age(folder / f".{old.key}.lock", 2),
        age(data / "images" / "cache" / f".{pictures.name}", 2),
    ]
    held = age(folder / f".{new.key}.lock", 2)
    stays = [
        store.path(new),
        held,
        age(folder / ".abc.x2.new.safetensors", 0.5),
        age(store.partial(new), 29),
        age(folder / ".note", 99),
        age(data / "images" / "photo.npy", 99),
        age(tmp_path / "store" / "other" / "a.safetensors", 99),
    ]
    with FileLock(held):
        assert {entry.path for entry in store.gc(30, dry_run=True)} == set(gone)
        assert all(path.exists() for path in (*gone, *stays))
        removed = store.gc(30)
    assert {entry.path for entry in removed} == set(gone)
    assert sum(entry.bytes for entry in removed if entry.kind in ("unfinished", "checkpoint")) == 7 * 4
    assert not any(path.exists() for path in gone)
    assert all(path.exists() for path in stays)


@pytest.mark.parametrize("days", [-1, float("nan")])
def test_a_negative_number_of_days_is_an_input_error(tmp_path: Path, days: float):
    with pytest.raises(InputError, match="at least 0"):
        Store(tmp_path).gc(days)


def test_entries_are_listed_by_kind_and_last_use_with_decoded_pictures(tmp_path: Path):
    store = Store(tmp_path / "store", data_dir=tmp_path / "data")
    for kind, n, days in (("results", 1, 3), ("experts", 1, 2), ("experts", 2, 1), ("priors", 1, 9)):
        store.put(Recipe(kind, {"n": n}), tensors())
        age(store.path(Recipe(kind, {"n": n})), days)
    cached(tmp_path / "data" / "cache", ["a"], (2, 3), lambda rows: None)
    found = [(entry.kind, entry.key) for entry in store.entries()]
    keys = [("experts", 2), ("experts", 1), ("priors", 1), ("results", 1)]
    assert found[:-1] == [(kind, Recipe(kind, {"n": n}).key) for kind, n in keys]
    assert found[-1][0] == "pictures"
    assert all(entry.bytes == entry.path.stat().st_size for entry in store.entries())


@pytest.mark.parametrize("content", [b"", b"text", pickle.dumps(1)])
def test_verifying_looks_at_decoded_pictures_too(tmp_path: Path, content: bytes):
    store = Store(tmp_path / "store", data_dir=tmp_path)
    cached(tmp_path / "cache", ["a"], (2, 3), lambda rows: None)
    assert [problem for _, problem in store.verify()] == [None]
    (entry,) = store.entries()
    entry.path.write_bytes(content)
    ((_, problem),) = store.verify()
    assert str(entry.path) in problem
    np.save(entry.path, np.zeros(3))
    ((_, problem),) = store.verify()
    assert "not the array of bytes that was written" in problem


@law
@given(st.binary(min_size=1, max_size=4), st.data())
def test_whatever_bytes_change_an_entry_is_the_same_or_refused(content: bytes, data):
    whole = KEPT.path(RECIPE).read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    KEPT.path(RECIPE).write_bytes(whole[:at] + content + whole[at + len(content) :])
    try:
        assert same(bits(read(KEPT.path(RECIPE))[0]), bits(tensors()))
    except InputError:
        pass
    finally:
        KEPT.path(RECIPE).write_bytes(whole)


@pytest.fixture(autouse=True, scope="module")
def _kept(tmp_path_factory: pytest.TempPathFactory) -> None:
    global KEPT
    KEPT = Store(tmp_path_factory.mktemp("kept"))
    KEPT.put(RECIPE, tensors())


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


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_json_has_no_text_for_has_no_digest(value: float):
    with pytest.raises(InputError, match="give it a finite value"):
        Recipe("experts", {"lr": [value]}).key  # noqa: B018
