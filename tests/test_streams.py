"""Streams of random numbers: the same everywhere, and each on its own."""

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
