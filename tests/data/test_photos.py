"""Patches of embedded photographs: server and users see disjoint regions, all of every photograph."""

from importlib.metadata import files

import numpy as np
import pytest
import torch

from dua_lightning.data import photos as module
from dua_lightning.data.photos import PHOTOGRAPHS, photos
from dua_lightning.data.pool import EVALUATION, EXTRA, SERVER, Pool
from dua_lightning.errors import InputError

SIDES = (SERVER, EVALUATION, EXTRA)


@pytest.fixture(scope="module")
def pool() -> Pool:
    return photos()


def positions(monkeypatch: pytest.MonkeyPatch, size: int) -> tuple[Pool, list[torch.Tensor]]:
    """A pool whose pixels say where they stand in their photograph: row * width + column, in three bytes."""
    where = []
    for name in (name for names in PHOTOGRAPHS.values() for name in names):
        height, width = module.photograph(name, size).shape[1:]
        number = torch.arange(height * width).reshape(height, width)
        where.append(torch.stack([number >> 16, number >> 8 & 255, number & 255]).byte())
    stand_ins = iter(where)
    with monkeypatch.context() as patch:
        patch.setattr(module, "photograph", lambda *_: next(stand_ins))
        return photos(size, server_per_category=10**6, least_std=0.0), where


@pytest.mark.parametrize("size", [36, 21, 8])
def test_no_pixel_is_seen_by_both_sides_and_none_is_wasted(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pool, where = positions(monkeypatch, size)
    at = pool.pixels.long()
    number = (at[:, 0] << 16) + (at[:, 1] << 8) + at[:, 2]
    for label, photograph in enumerate(where):
        height, width = photograph.shape[1:]
        seen = torch.zeros(3, height * width, dtype=torch.long)
        for side in SIDES:
            for patch in number[pool.where(side, [label])]:
                # Each patch is one square of the photograph.
                corner = patch[0, 0]
                assert patch.equal(corner + width * torch.arange(size)[:, None] + torch.arange(size))
                seen[side, patch.flatten()] += 1
        assert ((seen > 0).sum(0) <= 1).all()
        assert seen[EVALUATION].max() == seen[EXTRA].max() == 1, "a user's patches lie side by side"
        if size % 2:  # Patches that overlap by half leave the last pixel of a tile out.
            continue
        tiles = torch.tensor([height, width]) // (2 * size) * (2 * size)
        assert (seen > 0).any(0).reshape(height, width)[: tiles[0], : tiles[1]].all()
        assert (seen > 0).sum() == tiles.prod()
        # Both see all parts: the tiles change hands like the fields of a chessboard.
        servers = (seen[SERVER] > 0).reshape(height, width)[: tiles[0], : tiles[1]]
        rows, columns = (torch.arange(length) // (2 * size) for length in tiles.tolist())
        assert servers.equal((rows[:, None] + columns) % 2 == 0)


@pytest.mark.parametrize("size", [36, 9])
def test_a_source_is_a_tile_or_a_users_patch(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Patches that share a pixel share their source."""
    pool, where = positions(monkeypatch, size)
    at = pool.pixels.long()
    number = (at[:, 0] << 16) + (at[:, 1] << 8) + at[:, 2]
    for label, photograph in enumerate(where):
        owner = torch.full((photograph[0].numel(),), -1)
        for index in (pool.labels == label).nonzero()[:, 0]:
            pixels = number[index].flatten()
            assert torch.isin(owner[pixels], torch.tensor([-1, int(pool.sources[index])])).all()
            owner[pixels] = pool.sources[index]
        server, users = pool.where(SERVER, [label]), [*pool.where(EVALUATION, [label]), *pool.where(EXTRA, [label])]
        assert (pool.sources[server].unique(return_counts=True)[1] == len(range(0, size + 1, size // 2)) ** 2).all()
        assert len({int(pool.sources[i]) for i in users}) == len(users)


def test_enough_of_every_category_on_every_side(pool: Pool) -> None:
    assert [task.name for task in pool.tasks] == list(PHOTOGRAPHS)
    assert [pool.categories[task.classes] for task in pool.tasks] == list(PHOTOGRAPHS.values())
    for label, name in enumerate(pool.categories):
        server, evaluation, extra = (len(pool.where(side, [label])) for side in SIDES)
        assert server == 120, name
        assert evaluation + extra >= 45, name
        assert 0.25 < evaluation / (evaluation + extra) < 0.4, name


def test_a_pool_as_it_should_be(pool: Pool) -> None:
    n = len(pool.labels)
    assert pool.name == "photos"
    assert pool.pixels.shape == (n, 3, 36, 36)
    assert pool.pixels.dtype == pool.side.dtype == torch.uint8
    assert pool.labels.dtype == pool.sources.dtype == pool.owners.dtype == torch.int64
    assert len(pool.sources) == len(pool.side) == len(pool.owners) == n
    assert pool.owners.unique().tolist() == [-1]
    assert pool.users == ()
    for source in pool.sources.unique():
        of_source = pool.sources == source
        assert len(pool.side[of_source].unique()) == len(pool.labels[of_source].unique()) == 1


def test_nothing_is_drawn(pool: Pool) -> None:
    torch.manual_seed(1)
    module.photograph.cache_clear()
    again = photos()
    for name in ("pixels", "labels", "sources", "side"):
        assert getattr(again, name).equal(getattr(pool, name))


def test_a_patch_shows_the_same_part_at_any_size(pool: Pool) -> None:
    large = photos(72, least_std=0.0, server_per_category=10**6)
    small = photos(36, least_std=0.0, server_per_category=10**6)
    assert large.sources.equal(small.sources)
    assert large.side.equal(small.side)
    shrunk = torch.nn.functional.avg_pool2d(large.pixels.float(), 2)
    assert (shrunk - small.pixels.float()).abs().mean() < 5
    assert all(len(small.where(side)) > len(pool.where(side)) for side in SIDES)


def test_grey_photographs_have_three_equal_channels_and_each_task_two(pool: Pool) -> None:
    grey = [
        bool((pool.pixels[pool.labels == label] == pool.pixels[pool.labels == label][:, :1]).all())
        for label in range(16)
    ]
    assert [sum(grey[task.classes]) for task in pool.tasks] == [2] * 4


def test_patches_without_content_are_left_out(pool: Pool) -> None:
    std = pool.pixels.float().std((2, 3)).mean(1)
    assert std.min() >= module.LEAST_STD
    every = photos(least_std=0.0)
    dropped = (
        len(every.where(EVALUATION)) + len(every.where(EXTRA)) - len(pool.where(EVALUATION)) - len(pool.where(EXTRA))
    )
    assert 50 < dropped < 100


def test_the_servers_patches_are_spread_evenly(pool: Pool) -> None:
    few = photos(server_per_category=10)
    for label in range(16):
        sources = pool.sources[pool.where(SERVER, [label])]
        chosen = few.sources[few.where(SERVER, [label])]
        assert len(chosen) == 10
        assert torch.isin(chosen, sources).all()
        assert len(chosen.unique()) >= 8
    assert few.pixels[few.where(EXTRA)].equal(pool.pixels[pool.where(EXTRA)])


def test_every_photograph_is_inside_the_package() -> None:
    """Others would be downloaded by scikit-image on first use."""
    shipped = {path.name: path.hash for path in files("scikit-image") if path.parent.as_posix() == "skimage/data"}
    other_names = {
        "hubble_deep_field": "hubble_deep_field.jpg",
        "immunohistochemistry": "ihc.png",
        "retina": "retina.jpg",
    }
    other_names |= {"rocket": "rocket.jpg", "stereo_motorcycle": "motorcycle_left.png"}
    for name in (name for names in PHOTOGRAPHS.values() for name in names):
        assert other_names.get(name, f"{name}.png") in shipped


@pytest.mark.parametrize(("size", "count", "std"), [(1, 120, 2.0), (36, 1, 2.0), (36, 120, 1000.0)])
def test_what_leaves_nothing_is_refused(size: int, count: int, std: float) -> None:
    with pytest.raises(InputError, match=r"at least 2|lower least_std"):
        photos(size, count, std)


def test_the_left_picture_of_the_pair_is_used() -> None:
    import skimage.data
    from PIL import Image

    left = Image.fromarray(skimage.data.stereo_motorcycle()[0]).resize((640, 432), Image.Resampling.BILINEAR)
    assert (module.photograph("stereo_motorcycle", 36).numpy() == np.asarray(left).transpose(2, 0, 1)).all()
