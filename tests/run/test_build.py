"""From configuration to objects: types are checked, and messages name the place and the value."""

from dataclasses import dataclass
from typing import Literal

import pytest
from omegaconf import OmegaConf

from dua_lightning.errors import InputError
from dua_lightning.run.build import build, check


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
    return OmegaConf.create({"_target_": f"{__name__}.Outer", "name": "outer", "label": "Outer", **settings})


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


def test_a_list_of_the_configuration_is_checked_item_by_item() -> None:
    assert check(OmegaConf.create([1, 2]), list[int], "seed") == [1, 2]
    with pytest.raises(InputError, match="seed"):
        check(OmegaConf.create([1, "x"]), list[int], "seed")
