"""TransPrior: the same pictures for all, a transform for each, the same bits in every pass."""

import pytest
import torch

from dua_lightning.data import corrupted as module
from dua_lightning.data.benchmark import Benchmark
from dua_lightning.data.corruptions import NAMES, corrupt
from dua_lightning.data.pool import EVALUATION, EXTRA, SERVER
from dua_lightning.data.transprior import transprior
from dua_lightning.errors import InputError
from tests.data.pools import SIZE, pool

POOL = pool()


def bench(seed: int = 1, **settings: object) -> Benchmark:
    return transprior(seed, POOL, **{"input_size": 8, "extra_per_task": 30, **settings})


def test_there_is_a_user_for_each_transform_in_the_papers_order() -> None:
    assert tuple(user.user for user in bench().users) == NAMES


def test_underneath_all_users_have_the_same_pictures_and_none_is_the_servers() -> None:
    users = bench().users
    for images in users[0].images:
        side = POOL.side[images.sources]
        assert (side == EXTRA).sum() == 30
        assert (side == EVALUATION).sum() == 30
        assert not (side == SERVER).any()
    for user in users[1:]:
        for images, first in zip(user.images, users[0].images, strict=True):
            assert torch.equal(images.sources, first.sources)


def test_no_picture_is_on_both_halves_of_any_draw() -> None:
    for user in bench().users:
        for iteration in (1, 2, 3):
            drawn = user.draw(iteration)
            for part in map(drawn.of, drawn.tasks):
                evaluation, validation = part.evaluation, part.validation
                assert not set(evaluation.sources.tolist()) & set(validation.sources.tolist())
                assert len(evaluation) + len(validation) == 60


@pytest.mark.parametrize("severity", [1, 3])
def test_a_users_pictures_are_the_pools_through_the_transform(severity: int) -> None:
    for user in bench(severity=severity).users:
        for images in user.images:
            plain = POOL.pixels[images.sources]
            expected = corrupt(user.user, plain, severity, images.sources, seed=1, user=user.user)
            assert torch.equal(images.pixels, expected)
            assert images.inputs().shape[2:] == (8, 8)


def test_pixels_are_the_same_in_every_pass_whoever_is_read_in_between_and_in_every_draw() -> None:
    users = bench().users
    first = [user.images[0].pixels for user in users]
    again = [user.draw(2).images[0].pixels for user in reversed(users)]
    assert all(torch.equal(a, b) for a, b in zip(first, reversed(again), strict=True))


def test_all_extra_pictures_are_the_default_of_null_and_more_is_refused() -> None:
    assert sum(len(images) for images in bench(extra_per_task=None).users[0].images) == 2 * (3 * 20 + 3 * 10)
    with pytest.raises(InputError, match=r"task t0 has 60 extra pictures, and extra_per_task=61"):
        bench(extra_per_task=61)


def test_the_server_trains_on_untouched_pictures_cut_and_mirrored() -> None:
    data = bench().server[0]
    assert data.augment
    assert torch.equal(data.train.pixels, POOL.pixels[data.train.sources])
    assert not bench(augment=False).server[0].augment


def test_a_cut_larger_than_the_stored_pictures_is_refused() -> None:
    with pytest.raises(InputError, match=f"stored at {SIZE} pixels"):
        bench(input_size=SIZE + 1)


def test_pictures_that_belong_to_users_are_not_divided_anew() -> None:
    with pytest.raises(InputError, match="benchmark own_users"):
        transprior(1, pool(users=("ann", "bob")), input_size=8)


def test_pictures_are_digested_without_being_transformed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "corrupt", None)

    def digests(**settings: int) -> list[str]:
        return [images.digest() for user in bench(**settings).users for images in user.images]

    first = digests()
    assert len(set(first)) == len(first)
    assert digests() == first
    assert not set(digests(severity=1)) & set(first)
    monkeypatch.setattr(module, "version", lambda _: "of other transforms")
    assert not set(digests()) & set(first)
