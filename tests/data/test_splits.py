"""Splits: a partition by source picture, with the same share of every class."""

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dua_lightning.data.images import Images, images
from dua_lightning.data.splits import by_task, split
from dua_lightning.errors import InputError
from tests.helpers.nets import law


def numbered(labels: list[int], sources: list[int]) -> Images:
    """Images whose pixels are their own number."""
    number = torch.arange(len(labels)).byte()[:, None, None]
    return images(number, torch.tensor(labels), torch.tensor(sources), 0.5, 0.5)


def numbers_of(some: Images) -> list[int]:
    return some.pixels[:, 0, 0, 0].tolist()


@st.composite
def families(draw: st.DrawFn) -> Images:
    """Up to four classes of up to nine source pictures, two in some class, each in one to three images."""
    classes = st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=9), min_size=1, max_size=4)
    copies = draw(classes.filter(lambda found: any(len(of_class) > 1 for of_class in found)))
    pairs = [
        (label, 100 * label + source)
        for label, of_class in enumerate(copies)
        for source, n in enumerate(of_class)
        for _ in range(n)
    ]
    labels, sources = zip(*draw(st.permutations(pairs)), strict=True)
    return numbered(list(labels), list(sources))


shares = st.floats(0, 1)
seeds = st.integers(0, 2**63 - 1)


def stream(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@law
@given(families(), shares, seeds)
def test_every_image_is_on_one_side_in_the_order_it_had(some: Images, share: float, seed: int):
    first, second = (numbers_of(side) for side in split(some, share, stream(seed)))
    assert first == sorted(first)
    assert second == sorted(second)
    assert sorted(first + second) == list(range(len(some)))


@law
@given(families(), shares, seeds)
def test_no_source_is_on_both_sides(some: Images, share: float, seed: int):
    first, second = split(some, share, stream(seed))
    assert not set(first.sources.tolist()) & set(second.sources.tolist())


@law
@given(families(), shares, seeds)
def test_the_first_side_has_the_share_of_each_class_to_the_nearest_source(some: Images, share: float, seed: int):
    first, second = split(some, share, stream(seed))
    assert len(first)
    assert len(second)
    total = Counter(source // 100 for source in set(some.sources.tolist()))
    taken = Counter(source // 100 for source in set(first.sources.tolist()))
    for label, n in total.items():
        least, most = (1, n - 1) if n > 1 else (0, 0)
        assert taken[label] in (least, most) or abs(taken[label] - share * n) <= 0.5
        assert least <= taken[label] <= most


@law
@given(families(), shares, seeds)
def test_the_same_stream_draws_the_same_split(some: Images, share: float, seed: int):
    a, b = (split(some, share, stream(seed)) for _ in range(2))
    assert numbers_of(a[0]) == numbers_of(b[0])


def test_other_streams_draw_other_splits_and_every_image_gets_its_turn():
    some = numbered([0] * 8, list(range(8)))
    firsts = [tuple(numbers_of(split(some, 0.5, stream(seed))[0])) for seed in range(20)]
    assert len(set(firsts)) > 10
    assert set().union(*firsts) == set(range(8))


def test_four_fifths_of_five_and_half_of_six():
    some = numbered([0] * 5 + [1] * 5, list(range(10)))
    train, validation = split(some, 0.8, stream(0))
    assert train.labels.bincount().tolist() == [4, 4]
    assert validation.labels.bincount().tolist() == [1, 1]
    halves = split(numbered([3] * 6, list(range(6))), 0.5, stream(0))
    assert [len(half) for half in halves] == [3, 3]


@law
@given(st.lists(st.integers(0, 5), min_size=1, max_size=30))
def test_by_task_gives_each_task_the_images_of_its_columns_and_drops_the_others(labels: list[int]):
    some = numbered(labels, list(range(len(labels))))
    parts = by_task(some, [slice(0, 2), slice(2, 5)])
    assert [numbers_of(part) for part in parts] == [
        [i for i, label in enumerate(labels) if label in columns] for columns in ((0, 1), (2, 3, 4))
    ]


def test_two_sides_of_one_picture_for_each_class_are_an_input_error():
    for some in (numbered([0], [0]), numbered([0, 0, 1], [0, 0, 1])):
        with pytest.raises(InputError, match="at least two pictures"):
            split(some, 0.5, stream(0))
