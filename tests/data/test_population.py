"""A population: any number of users, each the same whatever their number, and none kept."""

import gc
import weakref

import pytest
import torch

from dua_lightning.data import population as module
from dua_lightning.data.benchmark import Benchmark
from dua_lightning.data.corruptions import NAMES
from dua_lightning.data.digits import digit_pool, mnist_subset
from dua_lightning.data.pool import EVALUATION, EXTRA, SERVER
from dua_lightning.data.population import population
from dua_lightning.data.user import UserData
from dua_lightning.errors import InputError
from tests.data.pools import pool
from tests.helpers.tiny import equal

POOL = pool()


def bench(users: int = 20, seed: int = 1, **settings: object) -> Benchmark:
    return population(seed, POOL, users, **{"input_size": 8, "fewest_images": 4, "most_images": 12, **settings})


def seen(user: UserData) -> list[torch.Tensor]:
    return [images.pixels for images in user.images]


def test_a_user_is_the_same_whatever_the_number_of_users_and_whoever_is_made_before() -> None:
    few, more = bench(3).users, bench(1000).users
    assert (len(few), len(more)) == (3, 1000)
    for k in (2, 0, 1):
        assert few[k].user == more[k].user == f"user_{k + 1}"
        assert few[k].recipe() == more[k].recipe()
        assert all(equal(a, b) for a, b in zip(few[k].images, more[k].images, strict=True))
    assert more[-1].user == more[999].user == "user_1000"
    assert [user.user for user in more[1:3]] == ["user_2", "user_3"]
    with pytest.raises(IndexError):
        few[3]


def test_another_seed_is_another_population() -> None:
    first, other = bench(seed=1).users[0], bench(seed=2).users[0]
    assert first.recipe()["images"] != other.recipe()["images"]


def test_no_user_is_kept() -> None:
    users = bench().users
    user = weakref.ref(users[7])
    gc.collect()
    assert user() is None


def test_a_billion_users_take_no_room() -> None:
    assert bench(10**9).users[10**9 - 1].user == "user_1000000000"


def test_users_differ_in_transform_severity_size_and_preferences(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    original = module.seen_through

    def noted(name: str, plain: object, severity: int, *rest: object, **named: object) -> object:
        drawn.append((name, severity))
        return original(name, plain, severity, *rest, **named)

    monkeypatch.setattr(module, "seen_through", noted)
    users = list(bench(200, concentration=0.3).users)
    assert {name for name, _ in drawn} == set(NAMES)
    assert {severity for _, severity in drawn} == {1, 2, 3, 4, 5}
    sizes = [len(images) for user in users for images in user.images]
    assert (min(sizes), max(sizes)) == (4, 12)
    known = {tuple(images.labels.unique().tolist()) for user in users for images in user.images[:1]}
    assert {(0,), (1,), (2,), (0, 1, 2)} <= known


def test_a_high_concentration_makes_users_alike() -> None:
    for user in bench(concentration=1e6, fewest_images=12).users[:5]:
        for images in user.images:
            assert images.labels.bincount(minlength=6)[images.labels.min() :].max() <= 9
            assert len(images.labels.unique()) == 3


def test_pictures_are_never_the_servers_and_each_once() -> None:
    for user in bench().users:
        for task, images in zip(POOL.tasks, user.images, strict=True):
            assert not (POOL.side[images.sources] == SERVER).any()
            assert len(images.sources.unique()) == len(images)
            assert all(label in range(task.classes.start, task.classes.stop) for label in images.labels.tolist())
            assert torch.equal(POOL.labels[images.sources], images.labels)


def test_two_users_see_the_same_picture_each_in_their_own_way() -> None:
    users = bench(60, fewest_images=12).users
    first = {int(source): row for source, row in zip(users[0].images[0].sources, seen(users[0])[0], strict=True)}
    others = [
        torch.equal(first[int(source)], row)
        for user in users[1:]
        for source, row in zip(user.images[0].sources, seen(user)[0], strict=True)
        if int(source) in first
    ]
    assert others
    assert not all(others)


def test_draws_and_labels_are_as_asked() -> None:
    made = bench(2, iterations=3, users_labelled=False, user_batch_size=5)
    user = made.users[1].draw(2)
    assert (made.iterations, user.iteration, user.labelled, user.batch_size) == (3, 2, False, 5)
    for part in map(user.of, user.tasks):
        evaluation, validation = part.evaluation, part.validation
        assert len(evaluation)
        assert len(validation)
        assert not set(evaluation.sources.tolist()) & set(validation.sources.tolist())


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"users": 0}, "users=0"),
        ({"users": 10**10}, "users=10000000000"),
        ({"fewest_images": 3}, "fewest_images=3"),
        ({"fewest_images": 13}, "most_images=12"),
        ({"concentration": 0.0}, "concentration=0.0"),
        ({"concentration": float("nan")}, "concentration=nan"),
        ({"input_size": 40}, "input_size=40"),
        ({"iterations": 0}, "iterations"),
    ],
)
def test_what_cannot_be_is_an_input_error_that_names_the_setting(settings: dict[str, float], named: str) -> None:
    with pytest.raises(InputError, match=named) as raised:
        bench(**settings)
    assert "\n" not in str(raised.value)


def test_a_category_without_pictures_for_users_is_refused() -> None:
    with pytest.raises(InputError, match="category c0"):
        population(1, pool(evaluation=1, extra=0), input_size=8)


def test_the_digits_are_a_pool_of_ten_categories() -> None:
    found = digit_pool(server_per_category=300)
    grey, labels = mnist_subset()
    assert torch.equal(found.labels, labels[found.sources])
    assert torch.equal(found.pixels[:, 1, 2:-2, 2:-2], grey[found.sources])
    assert found.pixels.shape == (5000, 3, 32, 32)
    for label in range(10):
        sides = found.side[found.labels == label].long().bincount()
        assert int(sides[SERVER]) == 300
        assert 60 <= int(sides[EVALUATION]) <= 70
        assert int(sides[EVALUATION] + sides[EXTRA]) == 200
    for wrong in (1, 495):
        with pytest.raises(InputError, match=f"server_per_category={wrong}"):
            digit_pool(wrong)
