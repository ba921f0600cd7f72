"""From configuration to objects: types are checked, and messages name the place and the value."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from dua_lightning.errors import InputError
from dua_lightning.merge import Merge
from dua_lightning.run.build import Choice, build, check, typed


@dataclass(frozen=True)
class Inner:
    size: int = 1


@dataclass(frozen=True)
class Outer:
    inner: Inner
    rate: float
    mode: Literal["a", "b"] = "a"
    given: str = ""


def node(**settings: object) -> object:
    return {"_target_": f"{__name__}.Outer", "name": "outer", "label": "Outer", **settings}


INNER = {"_target_": f"{__name__}.Inner", "size": 3}


def test_nodes_within_nodes_are_built_and_display_keys_are_not_passed() -> None:
    assert build(node(inner=INNER, rate=1), "here", given="x") == Outer(Inner(3), 1.0, "a", "x")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rate": "fast"}, ("here.rate=fast", "number")),
        ({"rate": 1, "mode": "c"}, ("here.mode=c", "'a' or 'b'")),
        ({"rate": 1, "sped": 2}, ("here.sped", "inner, rate, mode, given")),
        ({"rate": 1, "inner": {**INNER, "size": 1.5}}, ("here.inner.size=1.5",)),
        ({"rate": None}, ("here.rate=None",)),
    ],
)
def test_what_does_not_fit_is_named(settings: dict[str, object], words: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as caught:
        build(node(**{"inner": INNER, **settings}), "here")
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_list_is_checked_item_by_item() -> None:
    assert check([1, 2], list[int], "seed") == [1, 2]
    with pytest.raises(InputError, match="seed"):
        check([1, "x"], list[int], "seed")


def test_a_choice_is_named_for_people_and_plain_for_digests() -> None:
    choice = Choice("adapt", node(inner={**INNER, "label": "In"}, rate=1))
    assert (choice.name, choice.label) == ("outer", "Outer")
    assert choice.plain() == {"_target_": f"{__name__}.Outer", "inner": INNER, "rate": 1}
    assert choice.build(given="x") == Outer(Inner(3), 1.0, "a", "x")
    with pytest.raises(InputError, match=r"adapt\.name=None"):
        Choice("adapt", {"_target_": "x"}).name  # noqa: B018, it raises


def test_what_a_protocol_has_and_an_object_lacks_is_named() -> None:
    with pytest.raises(InputError, match=r"does not make a Merge, which has __call__, keeps_statistics, needs_prior"):
        build(INNER, "merge", Merge)


def test_a_dataclass_of_settings_is_checked_field_by_field_and_the_rest_is_left() -> None:
    assert typed({"size": 2, "else": 3}, Inner, "here") == Inner(2)
    for values, words in [({"size": "x"}, r"here\.size=x"), (3, "here=3")]:
        with pytest.raises(InputError, match=words):
            typed(values, Inner, "here")
    with pytest.raises(InputError, match=r"here\.inner is missing; give here\.inner=VALUE"):
        typed({"rate": 1.0}, Outer, "here")


FACTORIES = """
from functools import partial
from dataclasses import dataclass

@dataclass
class Made:
    shape: object
    size: object = 1

def anything(**settings): return Made(**settings)
def bare(shape, size=2): return Made(shape, size)
def for_checkers(shape: "Nowhere", size: "Nowhere" = 2): return Made(shape, size)
ready = partial(bare, size=3)
class Maker:
    @staticmethod
    def make(shape, size=2): return Made(shape, size)
    def __call__(self, shape, size=2): return Made(shape, size)
maker = Maker()
def lazy(shape): import torhc
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of modules of one's own, which is searched."""
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "factories"]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "factories").mkdir()
    (tmp_path / "factories" / "__init__.py").write_text(FACTORIES)
    return tmp_path / "factories"


@pytest.mark.parametrize("name", ["anything", "bare", "for_checkers", "ready", "Maker.make", "maker", "Made"])
def test_a_factory_of_any_kind_is_called(mine: Path, name: str) -> None:
    made = build({"_target_": f"factories.{name}", "size": "big"}, "model", shape=(1,))
    assert (made.shape, made.size) == ((1,), "big")
    assert build({"_target_": f"factories.{name}"}, "model", shape=(1,)).shape == (1,)


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("nothing", "", "module 'factories' has no attribute 'nothing'"),
        ("inner.net", "import torhc", "No module named 'torhc'; modules are looked for in this folder and"),
        ("inner.net", "import factories.torhc", "No module named 'factories.torhc'"),
        ("inner.net", "from math import nothing", "cannot import name 'nothing' from 'math'"),
        ("inner.net", "def net(:", "SyntaxError: invalid syntax (inner.py, line 1)"),
        ("inner.net", "1 / 0", "ZeroDivisionError: division by zero"),
        ("inner.net", "net = 3", "it is a int, which cannot be called"),
        ("lazy", "", "No module named 'torhc'"),
        ("anything", "", "TypeError: Made.__init__() got an unexpected keyword argument 'classes'"),
    ],
)
def test_the_real_reason_is_in_the_line(mine: Path, name: str, text: str, reason: str) -> None:
    (mine / "inner.py").write_text(text)
    given = {"shape": (1,)} | ({"classes": 2} if name == "anything" else {})
    with pytest.raises(InputError) as caught:
        build({"_target_": f"factories.{name}"}, "model", **given)
    assert str(caught.value).startswith(f"model._target_=factories.{name} cannot be used")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_module_that_is_not_there_is_named(mine: Path) -> None:
    with pytest.raises(InputError, match="No module named 'factoriez'"):
        build({"_target_": "factoriez.net"}, "model")
