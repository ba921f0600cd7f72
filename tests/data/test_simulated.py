"""Simulated users: the server's validation pictures, and nothing of the users who are scored."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from dua_lightning.data.benchmark import Benchmark
from dua_lightning.data.catprior import catprior
from dua_lightning.data.corruptions import NAMES
from dua_lightning.data.pool import SERVER, Pool
from dua_lightning.data.simulated import TRANSFORMS, Simulated, Transformed
from dua_lightning.data.transprior import transprior
from dua_lightning.errors import InputError
from tests.data.pools import pool

POOL = pool(server=30)


def bench(images: Pool = POOL, seed: int = 1) -> Benchmark:
    return transprior(seed, images, input_size=8, extra_per_task=10)


def simulated(seed: int = 1, images: Pool = POOL, **settings: object) -> Benchmark:
    return Simulated(**settings)(bench(images, seed))  # type: ignore[arg-type]


def test_they_have_the_servers_validation_pictures_and_the_server_stays_as_it_is() -> None:
    made = simulated(count=3)
    assert [user.user for user in made.users] == ["simulated_1", "simulated_2", "simulated_3"]
    assert [data.recipe() for data in made.server] == [data.recipe() for data in bench().server]
    for user in made.users:
        for task, data in zip(made.tasks, made.server, strict=True):
            own = user.of(task)
            assert set(own.images[0].sources.tolist()) == set(data.validation.sources.tolist())
            assert not set(own.evaluation.sources.tolist()) & set(own.validation.sources.tolist())
            assert own.validation.inputs().shape[2:] == (8, 8)


def test_the_scored_users_pictures_are_not_read() -> None:
    blank = torch.where((POOL.side == SERVER)[:, None, None, None], POOL.pixels, 0)
    others = replace(POOL, pixels=blank)
    kept = Simulated(concentration=1.0)
    shared = {"input_size": 8, "users": 2, "preferences": "drawn", "images_per_preference": 5}
    for one, other in (
        (bench(), bench(others)),
        (catprior(1, POOL, **shared), catprior(1, others, **shared)),
    ):
        assert one.users[0].recipe()["images"] != other.users[0].recipe()["images"]
        made, again = kept(one), kept(other)
        assert [user.recipe() for user in made.users] == [user.recipe() for user in again.users]
        pairs = [(a.images, b.images) for a, b in zip(made.users, again.users, strict=True)]
        assert all(torch.equal(x.pixels, y.pixels) for a, b in pairs for x, y in zip(a, b, strict=True))


def test_each_has_another_transform_and_none_is_a_scored_users() -> None:
    made = simulated(count=len(TRANSFORMS))
    stores = [user.images[0].store for user in made.users]
    assert {store.name for store in stores if isinstance(store, Transformed)} == set(TRANSFORMS)
    assert not set(TRANSFORMS) & set(NAMES)
    assert torch.equal(made.users[0].images[0].pixels, simulated().users[0].images[0].pixels)
    assert simulated(seed=2).users[0].recipe()["images"] != made.users[0].recipe()["images"]


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transform_changes_pictures_by_its_strength_and_keeps_their_shape(name: str) -> None:
    plain = torch.randint(256, (2, 3, 24, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    weak, strong = (TRANSFORMS[name](plain, s, torch.Generator().manual_seed(0)) for s in (0.0, 0.99))
    for seen in (weak, strong):
        assert (seen.dtype, seen.shape) == (torch.uint8, plain.shape)
        assert not torch.equal(seen, plain)
    assert torch.equal(weak, strong) == (name in ("grayscale", "invert", "equalize"))


def test_preferences_keep_all_of_one_category_and_a_share_of_the_others() -> None:
    made = simulated(transforms=False, concentration=0.5)
    whole = Counter(made.server[0].validation.labels.tolist())
    counts = [Counter(user.images[0].labels.tolist()) for user in made.users]
    for count in counts:
        assert any(count[label] == whole[label] for label in count)
        assert all(count[label] <= whole[label] for label in count)
    assert len({tuple(sorted(count.items())) for count in counts}) > 5
    even = simulated(transforms=False, concentration=1e6).users[0]
    assert Counter(even.images[0].labels.tolist()) == whole
    assert even.images[0].pixels.equal(POOL.pixels[even.images[0].sources])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"count": 0}, "count=0"),
        ({"transforms": False}, "all alike"),
        ({"concentration": 0.0}, "concentration=0.0"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        simulated(**settings)


def test_a_server_with_too_few_pictures_is_refused() -> None:
    with pytest.raises(InputError, match="validation pictures of task t0"):
        simulated(images=pool(server=2))
