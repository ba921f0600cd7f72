"""One class, one image, one number: every adaptation gives a model that can be used, or says in one line why not."""

import pytest
import torch
from torch import nn

from dua_lightning.adapt import (
    EATA,
    SAR,
    TENT,
    AdaBN,
    AdaBNReleased,
    AdaBNS,
    AdaBNSReleased,
    Adapt,
    AlphaBN,
    Auto,
    BalancedBN,
    Chain,
    Finetune,
    InformationMaximisation,
    Unchanged,
)
from dua_lightning.adapt.adabn import one_is_too_few
from dua_lightning.adapt.base import NormalisesTogether
from dua_lightning.errors import InputError
from dua_lightning.evaluation import accuracy
from dua_lightning.tasks import Task
from tests.helpers.nets import BATCH_NORM, CLASSES, MLP, TASK, Case, batches, labels, untouched

ONE_CLASS = Task("one", slice(2, 3))
EVERY: list[Adapt] = [
    Unchanged(),
    AdaBN(),
    AdaBN(1),
    AdaBN(statistics="batch"),
    AdaBN(statistics="ema"),
    AdaBNS(2),
    AdaBNSReleased(2).of(BATCH_NORM.expert(3)),
    AdaBNReleased(),
    TENT(),
    TENT(statistics="given"),
    InformationMaximisation(2, prior="estimated"),
    InformationMaximisation(2, prior="estimated", statistics="given"),
    EATA(2),
    SAR(2),
    AlphaBN(),
    AlphaBN(alpha=1),
    BalancedBN(2),
    BalancedBN(pseudo_count=16),
    Chain([AdaBN(), BalancedBN()]),
    Auto([AdaBN()], margin=0),
    Finetune(2),
]
ROWS = Case("rows", (2, 4, 4), lambda _: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(32), nn.Linear(32, CLASSES)))
MAPS = Case(
    "maps",
    (2, 4, 4),
    lambda _: nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, CLASSES)),
)


@pytest.mark.parametrize("adapt", EVERY, ids=str)
def test_a_task_of_one_class_is_served(adapt: Adapt) -> None:
    data = batches(BATCH_NORM.images(6), labels(6, ONE_CLASS), 3)
    state = adapt(BATCH_NORM.build(), BATCH_NORM.expert().state, ONE_CLASS, data)
    assert accuracy(BATCH_NORM.build(), state, ONE_CLASS, data) == 100


@pytest.mark.parametrize("sizes", [(1,), (1, 1), (2,), (1, 2)], ids=str)
@pytest.mark.parametrize("adapt", EVERY, ids=str)
def test_the_fewest_images_that_an_adaptation_names_are_those_that_it_needs(
    adapt: Adapt, sizes: tuple[int, ...]
) -> None:
    if isinstance(adapt, AdaBNSReleased):
        adapt = adapt.of(ROWS.expert(3))
    data = [(ROWS.images(n, seed), labels(n, TASK, seed)) for seed, n in enumerate(sizes)]
    if isinstance(adapt, NormalisesTogether) and adapt.normalised_together(sizes) < 2:
        with pytest.raises(InputError, match="one number has no variance"):
            adapt(ROWS.build(), ROWS.expert().state, TASK, data)
    else:
        state = adapt(ROWS.build(), ROWS.expert().state, TASK, data)
        assert 0 <= accuracy(ROWS.build(), state, TASK, data) <= 100
    maps = [(MAPS.images(n, seed), y) for seed, (n, (_, y)) in enumerate(zip(sizes, data, strict=True))]
    if isinstance(adapt, AdaBNSReleased):
        adapt = adapt.of(MAPS.expert(3))
    assert torch.isfinite(adapt(MAPS.build(), MAPS.expert().state, TASK, maps)["1.running_var"]).all()


def test_what_one_image_gives_to_the_narrowest_layer_is_counted() -> None:
    untracked = Case("untracked", (5,), lambda _: nn.Sequential(nn.BatchNorm1d(5, track_running_stats=False)))
    for case, expected in ((ROWS, True), (MAPS, False), (MLP, False), (BATCH_NORM, True), (untracked, True)):
        net = case.build().float()
        with untouched(net):
            assert one_is_too_few(net, case.shape) is expected, case.name
