"""From configuration to objects: types are checked, and messages name the place and the value."""

from dataclasses import dataclass
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
