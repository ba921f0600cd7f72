"""CatPrior: who gets which pictures, and what cannot be given."""

import itertools
from collections import Counter

import pandas as pd
import pytest
import torch

from dua_lightning.data.benchmark import Benchmark
from dua_lightning.data.catprior import catprior
from dua_lightning.data.pool import EVALUATION, EXTRA, SERVER
from dua_lightning.errors import InputError
from tests.data.pools import pool

POOL = pool()
USERS = 3


def bench(seed: int = 1, **settings: object) -> Benchmark:
    given = {"users": USERS, "preferences": "drawn", "preferred_categories": 2, "images_per_preference": 6}
    return catprior(seed, POOL, input_size=8, **{**given, **settings})


def sources(images: object) -> set[int]:
    return set(images.sources.tolist())


def test_no_picture_belongs_to_two_users_or_to_a_user_and_the_server() -> None:
    found = bench()
    owned = [set().union(*(sources(images) for images in user.images)) for user in found.users]
    server = set().union(*(sources(d.train) | sources(d.validation) for d in found.server))
    for a, b in itertools.combinations([*owned, server], 2):
        assert not a & b
    assert server == set(POOL.where(SERVER).tolist())


def test_no_picture_is_on_both_halves_of_any_draw() -> None:
    for user in bench().users:
        for iteration in range(1, 4):
            drawn = user.draw(iteration)
            for part in map(drawn.of, drawn.tasks):
                evaluation, validation = part.evaluation, part.validation
                assert not sources(evaluation) & sources(validation)


def test_a_user_has_the_pictures_of_each_preference_and_a_share_of_every_categorys_evaluation() -> None:
    for user in bench().users:
        for task, images in zip(POOL.tasks, user.images, strict=True):
            side = POOL.side[images.sources]
            extra = Counter(images.labels[side == EXTRA].tolist())
            assert list(extra.values()) == [6, 6]
            shares = Counter(images.labels[side == EVALUATION].tolist())
            assert set(shares) == set(range(task.classes.start, task.classes.stop))
            assert set(shares.values()) <= {3, 4}


def test_every_evaluation_picture_is_given_to_somebody() -> None:
    given = torch.cat([images.sources for user in bench().users for images in user.images])
    assert set(given[POOL.side[given] == EVALUATION].tolist()) == set(POOL.where(EVALUATION).tolist())


def test_tastes_stay_over_seeds_and_pictures_do_not() -> None:
    a, b = bench(1), bench(2)
    for first, second in zip(a.users, b.users, strict=True):
        for x, y in zip(first.images, second.images, strict=True):
            assert set(x.labels[POOL.side[x.sources] == EXTRA].tolist()) == set(
                y.labels[POOL.side[y.sources] == EXTRA].tolist()
            )
    assert any(sources(x.images[0]) != sources(y.images[0]) for x, y in zip(a.users, b.users, strict=True))
    assert all(torch.equal(x.images[0].rows, y.images[0].rows) for x, y in zip(a.users, bench(1).users, strict=True))


def test_a_number_that_cannot_be_met_is_refused_with_the_category_and_its_capacity() -> None:
    with pytest.raises(InputError, match=r"category c\d has extra pictures for (6|10|20) to each of the [123] users"):
        bench(images_per_preference=250)


def test_those_who_prefer_a_scarce_category_may_share_it(caplog: pytest.LogCaptureFixture) -> None:
    found = bench(images_per_preference=15, scarce="share")
    counts = Counter(
        label
        for user in found.users
        for part in user.images
        for label in part.labels[POOL.side[part.sources] == EXTRA].tolist()
    )
    fans = Counter(
        label
        for user in found.users
        for part in user.images
        for label in set(part.labels[POOL.side[part.sources] == EXTRA].tolist())
    )
    for label, count in fans.items():
        assert counts[label] == count * min(15, len(POOL.where(EXTRA, [label])) // count)
    assert set(fans.values()) >= {1, 2}
    assert len([line for line in caplog.messages if "since no more are there" in line]) == sum(
        count > 1 for count in fans.values()
    )
    owned = [set().union(*(sources(images) for images in user.images)) for user in found.users]
    for a, b in itertools.combinations(owned, 2):
        assert not a & b


@pytest.mark.parametrize(
    "wrong", [{"users": 0}, {"preferred_categories": 4}, {"preferred_categories": 0}, {"images_per_preference": -1}]
)
def test_impossible_settings_are_input_errors(wrong: dict[str, int]) -> None:
    with pytest.raises(InputError):
        bench(**wrong)


def test_balanced_preferences_give_every_category_nearly_the_same_number_of_fans() -> None:
    for users in (1, 2, 3, 5):
        data = bench(users=users, preferences="balanced", preferred_categories=2, images_per_preference=1)
        fans = Counter(
            label
            for user in data.users
            for part in user.images
            for label in set(part.labels[POOL.side[part.sources] == EXTRA].tolist())
        )
        for task in POOL.tasks:
            of_task = [fans[label] for label in range(task.classes.start, task.classes.stop)]
            assert sum(of_task) == 2 * users
            assert max(of_task) - min(of_task) <= 1


def test_published_preferences_need_the_published_categories_and_users() -> None:
    with pytest.raises(InputError, match="preferences=drawn"):
        bench(preferences="published")
    with pytest.raises(InputError, match="published for 5 users"):
        bench(preferences="published", users=6)


def test_published_preferences_are_three_categories_for_each_user_and_task() -> None:
    from importlib.resources import files

    tables = files("dua_lightning.data").joinpath("tables")
    table = pd.read_csv(tables.joinpath("catprior_preferences.csv"))
    assert (table.groupby(["user", "task"]).size() == 3).all()
    scenes = pd.read_csv(tables.joinpath("mit_indoor_supercategories.csv"))
    pairs = set(zip(scenes["supercategory"], scenes["category"], strict=True))
    assert set(zip(table["task"], table["category"], strict=True)) <= pairs
