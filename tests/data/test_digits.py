"""The embedded digits: nothing of one side is known to another, and colours follow the MNIST-M recipe."""

import hashlib
import itertools

import pytest
import torch

from dua_lightning.data import digits as module
from dua_lightning.data.benchmark import Benchmark
from dua_lightning.data.digits import GREY, UCI_SOURCES, blend, digits, mnist_subset, photograph, uci_digits
from dua_lightning.data.images import Images
from dua_lightning.errors import InputError
from tests.helpers.tiny import equal


@pytest.fixture(scope="module")
def small() -> Benchmark:
    return digits(3, server_per_class=20, user_per_class=10)


@pytest.fixture(scope="module")
def whole() -> Benchmark:
    """The benchmark as large as it is by default, so that every embedded digit is used."""
    return digits(0)


def sides(bench: Benchmark) -> dict[tuple[str, str, str], Images]:
    """Every side of every split, named (who, which half, task)."""
    named = {}
    for task, server in zip(bench.tasks, bench.server, strict=True):
        named["server", "train", task.name] = server.train
        named["server", "validation", task.name] = server.validation
    for user in bench.users:
        for task in bench.tasks:
            named[user.user, "evaluation", task.name] = user.of(task).evaluation
            named[user.user, "validation", task.name] = user.of(task).validation
    return named


def whose(bench: Benchmark, who: str) -> Images:
    return Images.cat([images for (name, _, _), images in sides(bench).items() if name == who])


def hashes(pixels: torch.Tensor) -> list[str]:
    return [hashlib.sha256(picture.numpy().tobytes()).hexdigest() for picture in pixels]


def drawn_from(images: Images) -> torch.Tensor:
    """The embedded grey digit behind each image, looked up by its source."""
    uci = images.sources >= UCI_SOURCES
    mnist_at, uci_at = images.sources.clamp(max=4999), (images.sources - UCI_SOURCES).clamp(min=0)
    return torch.where(uci[:, None, None], uci_digits()[0][uci_at], mnist_subset()[0][mnist_at])


def is_grey(images: Images) -> torch.Tensor:
    """By normalisation: a patch of a photograph can be all black, and the blend then the grey digit itself."""
    return torch.isclose(images.scale[:, 0], torch.tensor(1 / (255 * GREY[1])))


def test_no_two_embedded_digits_are_the_same_picture():
    for pixels, labels in (mnist_subset(), uci_digits()):
        assert len(set(hashes(pixels))) == len(pixels) == len(labels)


def test_embedded_digits_are_28x28_bytes_that_use_the_whole_range():
    for (pixels, labels), n in ((mnist_subset(), 5000), (uci_digits(), 1797)):
        assert (pixels.shape, pixels.dtype) == ((n, 28, 28), torch.uint8)
        assert (int(pixels.min()), int(pixels.max())) == (0, 255)
        assert labels.unique().tolist() == list(range(10))


def test_no_pair_of_sides_shares_a_source_or_a_picture(whole: Benchmark):
    of_side = {
        name: (set(images.sources.tolist()), set(hashes(images.pixels)), set(hashes(drawn_from(images))))
        for name, images in sides(whole).items()
    }
    assert len(of_side) == (2 + 3 * 2) * 5
    shared = [
        (a, b)
        for a, b in itertools.combinations(of_side, 2)
        if any(x & y for x, y in zip(of_side[a], of_side[b], strict=True))
    ]
    assert shared == []


@pytest.mark.parametrize("iteration", [2, 3])
def test_another_iteration_of_a_user_meets_no_source_of_the_server_nor_of_another_user(whole: Benchmark, iteration):
    known = {"server": set(whose(whole, "server").sources.tolist())}
    for user in whole.users:
        drawn = user.draw(iteration)
        known[user.user] = set(Images.cat([drawn.evaluation, drawn.validation]).sources.tolist())
    assert not any(a & b for a, b in itertools.combinations(known.values(), 2))


def test_by_default_every_embedded_digit_is_used(whole: Benchmark):
    sources = set(Images.cat(list(sides(whole).values())).sources.tolist())
    assert sources == set(range(5000)) | set(range(UCI_SOURCES, UCI_SOURCES + 1797))


def test_images_are_the_digits_their_sources_say_with_their_labels(small: Benchmark):
    labels = torch.cat([mnist_subset()[1], uci_digits()[1]])
    for (_, _, task), images in sides(small).items():
        index = torch.where(images.sources >= UCI_SOURCES, images.sources - UCI_SOURCES + 5000, images.sources)
        assert torch.equal(images.labels, labels[index])
        assert {f"{label // 2 * 2}-{label // 2 * 2 + 1}" for label in images.labels.tolist()} == {task}
        grey = is_grey(images)
        grey_digits = drawn_from(images)[grey][:, None].expand(-1, 3, -1, -1)
        assert torch.equal(images.pixels[grey], grey_digits)


def test_a_digit_and_its_colour_version_are_on_the_same_side_of_the_server(small: Benchmark):
    for server in small.server:
        for images in (server.train, server.validation):
            grey = is_grey(images)
            assert torch.equal(images.sources[grey].sort().values, images.sources[~grey].sort().values)
            assert len(images.sources.unique()) == int(grey.sum())


def test_every_class_has_as_many_images_as_asked(small: Benchmark):
    for server in small.server:
        for images, n in ((server.train, 2 * 16), (server.validation, 2 * 4)):
            assert images.labels.bincount()[server.task.classes].tolist() == [n, n]
    assert whose(small, "server").labels.bincount().tolist() == [40] * 10
    assert whose(small, "mnist").labels.bincount().tolist() == [10] * 10
    assert whose(small, "mnist_m").labels.bincount().tolist() == [10] * 10
    assert torch.equal(whose(small, "uci").labels.bincount(), uci_digits()[1].bincount())
    for user in small.users[:2]:
        for part in (user.evaluation, user.validation):
            assert part.labels.bincount().tolist() == [5] * 10


def test_grey_is_standardised_and_colour_goes_from_minus_one_to_one(small: Benchmark):
    for (who, _, _), images in sides(small).items():
        grey = is_grey(images)
        assert int(grey.sum()) == {"server": len(images) // 2, "mnist_m": 0}.get(who, len(images))
        for chosen, (mean, std) in ((grey, GREY), (~grey, (0.5, 0.5))):
            expected = (images.pixels[chosen].double() / 255 - mean) / std
            torch.testing.assert_close(images.inputs()[chosen].double(), expected, rtol=0, atol=2e-6)


def test_users_come_in_the_documented_order_and_shape(small: Benchmark):
    assert [user.user for user in small.users] == ["mnist", "mnist_m", "uci"]
    assert [task.name for task in small.tasks] == ["0-1", "2-3", "4-5", "6-7", "8-9"]
    assert (small.shape, small.classes) == ((3, 28, 28), 10)
    assert all(images.pixels.shape[1:] == small.shape for images in sides(small).values())


def test_blend_is_the_recipe_worked_out_pixel_by_pixel():
    photos = [photograph("coffee")[:, :60, :50], photograph("rocket")[:, 100:140, 100:170]]
    digit = mnist_subset()[0][1234]
    blended = blend(digit[None], photos, torch.Generator().manual_seed(7))[0]
    stream = torch.Generator().manual_seed(7)
    photo = photos[torch.randint(2, (), generator=stream)]
    top = int(torch.randint(photo.shape[1] - 27, (), generator=stream))
    left = int(torch.randint(photo.shape[2] - 27, (), generator=stream))
    for channel, y, x in itertools.product(range(3), range(28), range(28)):
        expected = abs(int(photo[channel, top + y, left + x]) - int(digit[y, x]))
        assert int(blended[channel, y, x]) == expected


def test_patches_are_cut_from_anywhere_in_every_photograph():
    photos = [(100 * i + torch.arange(9, dtype=torch.uint8).view(1, 3, 3)).expand(3, 3, 3) for i in range(2)]
    blank = torch.zeros(200, 2, 2, dtype=torch.uint8)
    corners = blend(blank, photos, torch.Generator().manual_seed(0))[:, 0, 0, 0]
    assert corners.unique().tolist() == [0, 1, 3, 4, 100, 101, 103, 104]


def test_photographs_of_server_and_users_differ():
    pictures = {name: photograph(name) for name in (*module.SERVER_PHOTOGRAPHS, *module.USER_PHOTOGRAPHS)}
    assert len(pictures) == len({picture.numpy().tobytes() for picture in pictures.values()}) == 6
    for picture in pictures.values():
        assert (picture.shape[0], picture.dtype) == (3, torch.uint8)
        assert min(picture.shape[1:]) >= 28


def test_server_and_users_are_coloured_from_their_own_photographs_and_from_all_of_them(monkeypatch):
    plain = {name: 10 * (i + 1) for i, name in enumerate((*module.SERVER_PHOTOGRAPHS, *module.USER_PHOTOGRAPHS))}
    monkeypatch.setattr(module, "photograph", lambda name: torch.full((3, 40, 40), plain[name], dtype=torch.uint8))
    bench = digits(0, server_per_class=10, user_per_class=10)

    def backgrounds(images: Images) -> set[int]:
        """The blend is the photograph where the digit is 0."""
        of_digit = drawn_from(images)[:, None].expand_as(images.pixels)
        return set(images.pixels[of_digit == 0].unique().tolist())

    server = whose(bench, "server")
    assert backgrounds(server[~is_grey(server)]) == {10, 20, 30}
    assert backgrounds(whose(bench, "mnist_m")) == {40, 50, 60}


def test_the_same_seed_gives_the_same_bits_and_another_seed_other_digits():
    one, again, other = (digits(seed, server_per_class=10, user_per_class=4) for seed in (1, 1, 2))
    for name, images in sides(one).items():
        assert equal(images, sides(again)[name])
        assert not equal(images, sides(other)[name])
    for who in ("server", "mnist", "mnist_m"):
        assert set(whose(one, who).sources.tolist()) != set(whose(other, who).sources.tolist())


def test_every_class_is_drawn_by_a_stream_of_its_own(small: Benchmark):
    labels, server = mnist_subset()[1], whose(small, "server")
    places = set()
    for digit in range(10):
        drawn = torch.isin((labels == digit).nonzero()[:, 0], server.sources)
        places.add(tuple(drawn.nonzero()[:, 0].tolist()))
    assert len(places) == 10


def test_leaving_out_tasks_changes_nothing_in_the_others(small: Benchmark):
    fewer = digits(3, tasks=2, server_per_class=20, user_per_class=10)
    assert fewer.tasks == small.tasks[:2]
    assert fewer.classes == 4
    for name, images in sides(fewer).items():
        assert equal(images, sides(small)[name])


def test_batch_sizes_and_labels_reach_server_and_users():
    bench = digits(0, server_per_class=10, user_per_class=6, batch_size=7, user_batch_size=3, users_labelled=False)
    assert len(next(iter(bench.server[0].train_dataloader()))[0]) == 7
    for user in bench.users:
        x, y = next(iter(user.train_dataloader()))
        assert (len(x), y) == (3, None)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"server_per_class": 301, "user_per_class": 100}, "server_per_class=301"),
        ({"server_per_class": 300, "user_per_class": 101}, "user_per_class=101"),
        ({"server_per_class": 1}, "server_per_class=1 "),
        ({"user_per_class": 1}, "user_per_class=1 "),
        ({"user_per_class": -5}, "user_per_class=-5"),
        ({"tasks": 0}, "tasks=0"),
        ({"tasks": 6}, "tasks=6"),
        ({"batch_size": 0}, "batch_size"),
        ({"user_batch_size": -1}, "user_batch_size"),
    ],
)
def test_what_cannot_be_is_an_input_error_that_names_the_setting(settings: dict[str, int], named: str):
    with pytest.raises(InputError, match=named) as raised:
        digits(0, **settings)
    assert "\n" not in str(raised.value)
