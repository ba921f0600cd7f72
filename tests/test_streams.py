"""Streams of random numbers: the same everywhere, and each on its own."""

from unicodedata import normalize

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from dua_lightning.streams import derive, generator
from tests.helpers.nets import law

PINNED = 3980124625489756672

parts = st.lists(st.integers(-5, 30) | st.text("ab1-", max_size=3), max_size=3)


def test_a_stream_is_the_same_in_every_process_and_release() -> None:
    assert derive(1, "user", "mnist", 2) == PINNED
    assert generator(1, "user", "mnist", 2).initial_seed() == PINNED


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((1, "a"), (2, "a")),
        ((1, "a"), (1, "b")),
        ((1, "a"), (1,)),
        ((1, "a", "b"), (1, "b", "a")),
        ((1, "ab"), (1, "a", "b")),
        ((1, 2), (1, "2")),
        ((1, 12), (11, 2)),
        ((1, ""), (1,)),
    ],
)
def test_another_key_is_another_stream(one: tuple, other: tuple) -> None:
    assert derive(*one) != derive(*other)


@law
@given(st.integers(-9, 9), parts, st.integers(-9, 9), parts)
def test_no_two_keys_share_a_seed(seed: int, key: list, other_seed: int, other_key: list) -> None:
    assume((seed, key) != (other_seed, other_key))
    assert derive(seed, *key) != derive(other_seed, *other_key)


characters = st.characters() | st.characters(categories=["Cs"]) | st.sampled_from("\x1f\u202e\n=,[]'\"e\u0301\u00e9")
names = st.lists(st.integers(-5, 30) | st.text(characters, max_size=5), max_size=3)


@law
@given(names, names)
def test_any_name_makes_a_stream_and_no_other_name_makes_the_same(key: list, other: list) -> None:
    """Surrogates are the bytes of names that are no UTF-8."""
    seeds = [derive(1, *key), derive(1, *other)]
    same = [[normalize("NFC", part) if isinstance(part, str) else part for part in names] for names in (key, other)]
    assert (seeds[0] == seeds[1]) == (same[0] == same[1])


def test_a_separator_in_a_name_separates_nothing() -> None:
    keys = [("a\x1fs:b",), ("a", "b"), ("a\x1f", "b"), ("a", "\x1fb"), ("a\x1f\x1f", "b"), ("a\x1fs:", "b")]
    assert len({derive(1, *key) for key in keys}) == len(keys)


def test_a_name_has_one_stream_in_every_unicode_form() -> None:
    assert derive(1, "user", "caf\u00e9") == derive(1, "user", "cafe\u0301") != derive(1, "user", "cafe")


@law
@given(st.integers(), parts)
def test_a_seed_is_a_non_negative_int64(seed: int, key: list) -> None:
    assert 0 <= derive(seed, *key) < 2**63


def test_a_generator_starts_its_stream_anew_and_leaves_the_global_one_alone() -> None:
    before = torch.get_rng_state()
    first, again, other = (torch.rand(4, generator=generator(3, key)) for key in ("a", "a", "b"))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)
