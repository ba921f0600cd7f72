"""Images in memory: normalisation, indexing, and loaders of whole batches."""

import pickle
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dua_lightning.data.images import BatchOrder, Images, Loader, Passes, images, loader
from dua_lightning.streams import generator
from tests.helpers.nets import law
from tests.helpers.tiny import equal


def colour(n: int, seed: int = 0, mean: float = 0.5, std: float = 0.25) -> Images:
    pixels = torch.randint(256, (n, 3, 4, 5), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return images(pixels, torch.arange(n), 100 + torch.arange(n), mean, std)


def batches(some: Images, size: int, stream: Any = None, augment: bool = False, **settings: Any) -> Loader:
    return loader(some, BatchOrder(len(some), size, stream, augment), **settings)


def visited(of_batches: Passes) -> list[int]:
    """One pass: the labels, which number the images."""
    return [int(label) for _, labels in of_batches for label in labels]


@pytest.mark.parametrize(("mean", "std"), [(0.1307, 0.3081), (0.5, 0.5)])
def test_inputs_are_pixels_over_255_less_the_mean_over_the_deviation(mean: float, std: float):
    some = colour(6, mean=mean, std=std)
    expected = (some.pixels.double() / 255 - mean) / std
    assert some.inputs().dtype == torch.float32
    torch.testing.assert_close(some.inputs().double(), expected, rtol=0, atol=2e-6)


def test_black_and_white_of_a_half_half_domain_are_minus_one_and_one():
    extremes = torch.tensor([0, 255], dtype=torch.uint8)[:, None, None].expand(2, 4, 4)
    values = images(extremes, torch.zeros(2), torch.arange(2), 0.5, 0.5).inputs().flatten(1)
    torch.testing.assert_close(values, torch.tensor([[-1.0], [1.0]]).expand(2, 48))


def test_grey_is_repeated_in_three_channels():
    grey = torch.randint(256, (3, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pixels = images(grey, torch.zeros(3), torch.arange(3), 0.5, 0.5).pixels
    assert pixels.shape == (3, 3, 4, 5)
    assert all(torch.equal(pixels[:, channel], grey) for channel in range(3))


def test_colour_pixels_stay_as_they_are_and_stay_bytes():
    given_pixels = colour(4).pixels
    made = images(given_pixels, torch.zeros(4), torch.arange(4), 0.5, 0.5)
    assert made.pixels.dtype == torch.uint8
    assert torch.equal(made.pixels, given_pixels)


@pytest.mark.parametrize(
    "index", [torch.tensor([4, 0, 4]), torch.arange(6) % 2 == 0, slice(1, 4), torch.tensor([], dtype=torch.int64)]
)
def test_indexing_keeps_what_belongs_to_an_image_together(index: torch.Tensor | slice):
    mixed = Images.cat([colour(3, 0, 0.1, 0.3), colour(3, 1, 0.5, 0.5)])
    some = mixed[index]
    assert torch.equal(some.inputs(), mixed.inputs()[index])
    assert torch.equal(some.labels, mixed.labels[index])
    assert torch.equal(some.sources, mixed.sources[index])
    assert len(some) == len(mixed.labels[index])


def test_cat_keeps_order_and_each_domain_its_own_normalisation():
    a, b = colour(3, 0, 0.1, 0.3), colour(2, 1, 0.5, 0.5)
    both = Images.cat([a, b])
    assert len(both) == 5
    assert equal(both[:3], a)
    assert equal(both[3:], b)
    assert torch.equal(both.inputs(), torch.cat([a.inputs(), b.inputs()]))


def test_parts_of_one_store_go_on_sharing_it():
    some = colour(6)
    both = Images.cat([some[4:], some[:2]])
    assert both.store is some.store
    assert both.labels.tolist() == [4, 5, 0, 1]
    assert torch.equal(both.pixels, some.pixels[[4, 5, 0, 1]])


def cut(some: Images, crop: int | None) -> Images:
    return images(some.pixels, some.labels, some.sources, 0.5, 0.25, crop)


def test_the_network_sees_the_centre_of_a_cut_image():
    some = colour(6)
    expected = some.inputs()[:, :, 1:3, 1:3]
    assert torch.equal(cut(some, 2).inputs(), expected)
    assert torch.equal(cut(some, 2)[2:4].inputs(), expected[2:4])
    assert torch.equal(Images.cat([cut(some, 2), cut(some, 2)]).inputs(), torch.cat([expected, expected]))
    assert torch.equal(cut(some, 2).pixels, some.pixels)


@pytest.mark.parametrize(("crop", "corners"), [(2, 3 * 4), (None, 1)])
def test_augmented_images_are_cut_anywhere_and_mirrored_or_not_each_on_its_own(crop: int | None, corners: int):
    one = colour(1)
    many = cut(Images.cat([one] * 300), crop)
    whole, (high, wide) = one.inputs()[0], (crop or 4, crop or 5)
    windows = {}
    for top in range(4 - high + 1):
        for left in range(5 - wide + 1):
            window = whole[:, top : top + high, left : left + wide]
            windows[top, left, False], windows[top, left, True] = window, window.flip(2)
    seen = [
        next(name for name, window in windows.items() if torch.equal(x, window))
        for x in many.inputs(torch.rand(300, 3, generator=torch.Generator().manual_seed(0)))
    ]
    assert len(set(seen)) == 2 * corners
    assert 100 < sum(mirrored for _, _, mirrored in seen) < 200


def test_the_chances_of_an_image_decide_about_it_alone():
    some, chances = cut(colour(8), 2), torch.rand(8, 3, generator=torch.Generator().manual_seed(0))
    together = some.inputs(chances)
    for k in range(8):
        assert torch.equal(some[k : k + 1].inputs(chances[k : k + 1])[0], together[k])
    low, high = torch.zeros(8, 3), torch.full((8, 3), 1 - 2**-24)
    assert torch.equal(some.inputs(low), colour(8).inputs()[:, :, :2, :2].flip(3))
    assert torch.equal(some.inputs(high), colour(8).inputs()[:, :, 2:, 3:])


def test_augmenting_keeps_the_order_and_is_a_draw_of_the_stream_and_the_epoch():
    def passes(augment: bool, seed: int = 0, size: int = 6) -> list[list[tuple[torch.Tensor, torch.Tensor]]]:
        of_batches = Passes(batches(cut(colour(20), 2), size, (seed, "a"), augment))
        return [list(of_batches) for _ in range(2)]

    def all_equal(a, b, part: int) -> bool:
        return all(torch.equal(x[part], y[part]) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True))

    assert all_equal(passes(True), passes(True), 0)
    assert not all_equal(passes(True), passes(True, seed=1), 0)
    assert all_equal(passes(True), passes(False), 1)
    assert not all_equal(passes(True), passes(False), 0)
    first, second = ({int(y): x for batch in one for x, y in zip(*batch, strict=True)} for one in passes(True))
    assert not all(torch.equal(first[label], second[label]) for label in range(20))
    # Whatever the batches are.
    (large,) = passes(True, size=20)[0]
    assert all(torch.equal(x, first[int(y)]) for x, y in zip(*large, strict=True))


@law
@given(n=st.integers(1, 30), size=st.integers(1, 12))
def test_batches_without_a_stream_are_the_images_cut_in_order(n: int, size: int):
    some = colour(n)
    of_batches = batches(some, size)
    for _ in range(2):
        parts = list(of_batches)
        assert [len(x) for x, _ in parts] == [size] * (n // size) + [n % size] * (n % size > 0)
        assert len(of_batches) == len(parts)
        assert torch.equal(torch.cat([x for x, _ in parts]), some.inputs())
        assert torch.equal(torch.cat([y for _, y in parts]), some.labels)


@law
@given(n=st.integers(1, 30), size=st.integers(1, 12))
def test_every_pass_with_a_stream_has_every_image_once_beside_its_own_label(n: int, size: int):
    some = colour(n)
    inputs = some.inputs()
    of_batches = Passes(batches(some, size, (0, "order")))
    for _ in range(3):
        parts = list(of_batches)
        assert [len(x) for x, _ in parts] == [len(y) for _, y in parts]
        assert len(of_batches) == len(parts)
        labels = torch.cat([y for _, y in parts])
        assert sorted(labels.tolist()) == list(range(n))
        assert torch.equal(torch.cat([x for x, _ in parts]), inputs[labels])


@pytest.mark.parametrize(
    ("n", "size", "cut"), [(7, 3, [3, 4]), (8, 3, [3, 3, 2]), (6, 3, [3, 3]), (1, 3, [1]), (4, 3, [4])]
)
def test_a_last_batch_of_one_joins_the_one_before_where_it_is_trained_on(n: int, size: int, cut: list[int]):
    assert [len(x) for x, _ in batches(colour(n), size, (0, "a"))] == cut


def test_epoch_e_is_the_permutation_of_its_own_stream_whatever_was_read_before():
    of_batches = Passes(batches(colour(20), 6, (5, "who", 2)))
    passes = [visited(of_batches) for _ in range(3)]
    expected = [torch.randperm(20, generator=generator(5, "who", 2, epoch)).tolist() for epoch in range(3)]
    assert passes == expected
    assert passes[0] != passes[1] != passes[2] != passes[0]
    order = BatchOrder(20, 6, (5, "who", 2))
    for epoch in (2, 0, 2, 1):
        order.set_epoch(epoch)
        assert torch.cat([indices for indices, _ in order]).tolist() == expected[epoch]


def test_the_same_stream_gives_the_same_passes_and_another_stream_others():
    def passes(*stream: str | int) -> list[list[int]]:
        of_batches = Passes(batches(colour(20), 6, stream))
        return [visited(of_batches) for _ in range(3)]

    assert passes(1, "a") == passes(1, "a")
    assert passes(1, "a") != passes(2, "a")
    assert passes(1, "a") != passes(1, "b")


def test_the_order_does_not_depend_on_the_batch_size():
    orders = [visited(Passes(batches(colour(20), size, (0, "a")))) for size in (3, 20)]
    assert orders[0] == orders[1]


@pytest.mark.parametrize("stream", [None, (0, "a")])
def test_unlabelled_batches_are_the_same_images_with_none_for_labels(stream: tuple[int, str] | None):
    with_labels = list(batches(colour(8), 3, stream))
    without = list(batches(colour(8), 3, stream, labelled=False))
    assert [y for _, y in without] == [None] * 3
    assert all(torch.equal(x, z) for (x, _), (z, _) in zip(with_labels, without, strict=True))


@law
@given(n=st.integers(1, 30), size=st.integers(1, 12), processes=st.integers(1, 4), augment=st.booleans())
def test_several_processes_share_every_batch(n: int, size: int, processes: int, augment: bool):
    whole = list(BatchOrder(n, size, (0, "a"), augment))
    parts = [list(BatchOrder(n, size, (0, "a"), augment, rank, processes)) for rank in range(processes)]
    for (indices, chances), *shares in zip(whole, *parts, strict=True):
        taken = torch.cat([own for own, _ in shares])
        assert set(taken.tolist()) == set(indices.tolist())
        # Only where there are fewer images than processes is one taken twice.
        assert len(taken) == max(len(indices), processes)
        for own, own_chances in shares:
            if chances is not None:
                places = [indices.tolist().index(i) for i in own.tolist()]
                assert torch.equal(own_chances, chances[places])


def test_workers_read_the_same_batches():
    alone, helped = (list(batches(cut(colour(20), 2), 6, (0, "a"), True, workers=workers)) for workers in (0, 2))
    assert all(torch.equal(a, b) for one, two in zip(alone, helped, strict=True) for a, b in zip(one, two, strict=True))


def test_a_pickled_part_of_a_store_is_the_same_images_alone():
    some = colour(50)[10:13]
    again = pickle.loads(pickle.dumps(some))  # noqa: S301
    assert equal(again, some)
    assert again.digest() == some.digest()
    assert len(again.store) == 3


def test_a_cut_image_stays_cut_when_it_is_pickled():
    some = cut(colour(5), 2)
    assert equal(pickle.loads(pickle.dumps(some)), some)  # noqa: S301
