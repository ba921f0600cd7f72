"""Importances to which each image adds a bounded norm: loops over images, and laws."""

import math

import pytest
import torch

from dua_lightning.errors import InputError
from dua_lightning.importance import FIM, MAS, Averaged, Clipped
from dua_lightning.importance.clipped import different, norm
from dua_lightning.tasks import Expert, Task
from tests.helpers.nets import BATCH_NORM, CASES, Case, batches, close, equal, labels, untouched
from tests.reference import clipped_loop, fim_loop, mas_loop


def bound(net: torch.nn.Module, expert: Expert, x: torch.Tensor, y: torch.Tensor, of: MAS | FIM) -> float:
    """A bound that some of the images are above."""
    sizes = [norm(of(net, expert, [(x[i : i + 1], y[i : i + 1])])) for i in range(len(x))]
    return sorted(sizes)[len(sizes) // 2] * 0.9


@pytest.mark.parametrize("case", CASES)
def test_it_is_the_mean_of_what_each_image_adds_after_its_norm_is_clipped(case: Case) -> None:
    x, y, net, expert = case.images(5), labels(5), case.build(), case.expert()
    for of in (MAS(), FIM()):
        most = bound(case.build(), expert, x, y, of)

        def of_image(i: int, of: MAS | FIM = of) -> dict[str, torch.Tensor]:
            if isinstance(of, MAS):
                return mas_loop.mas(case.build(), expert, x[i : i + 1])
            return fim_loop.fim_true(case.build(), expert, x[i : i + 1], y[i : i + 1])

        with untouched(net, expert.state):
            found = Clipped(of, most)(net, expert, batches(x, y, 3))
        tied = found.keys() - different(found).keys()
        close(found, clipped_loop.clipped(of_image, 5, most, sorted(tied)))
        assert norm(found) <= most * (1 + 1e-12)


@pytest.mark.parametrize("of", [MAS(), FIM()], ids=["MAS", "FIM"])
def test_without_a_bound_it_is_the_importance_itself(of: MAS | FIM) -> None:
    x, y, expert = BATCH_NORM.images(5), labels(5), BATCH_NORM.expert()
    found = Clipped(of, math.inf)(BATCH_NORM.build(), expert, batches(x, y, 2))
    close(found, of(BATCH_NORM.build(), expert, batches(x, y, 2)))
    assert Clipped(of, 1).needs_labels == of.needs_labels


def test_batches_do_not_matter_and_no_image_moves_the_sum_by_more_than_the_bound() -> None:
    x, expert = BATCH_NORM.images(6), BATCH_NORM.expert()
    most = bound(BATCH_NORM.build(), expert, x, labels(6), MAS())
    psi = Clipped(MAS(), most)
    whole = psi(BATCH_NORM.build(), expert, batches(x, None, 4))
    equal(psi(BATCH_NORM.build(), expert, [(x[:0], None), *batches(x, None, 1)]), whole)
    for i in range(6):
        rest = psi(BATCH_NORM.build(), expert, [(torch.cat([x[:i], x[i + 1 :]]), None)])
        moved = {name: 6 * whole[name] - 5 * rest[name] for name in whole}
        assert norm(moved) <= most * (1 + 1e-9)
        assert all((omega >= -1e-9).all() for omega in moved.values())


def test_an_image_without_importance_adds_nothing() -> None:
    expert = BATCH_NORM.expert()
    nothing = Expert(Task("t", slice(0, 6)), {name: torch.zeros_like(t) for name, t in expert.state.items()})
    found = Clipped(MAS(), 1)(BATCH_NORM.build(), nothing, [(BATCH_NORM.images(2), None)])
    assert norm(found) == 0


def test_what_cannot_be_clipped_is_an_input_error() -> None:
    for of in (FIM("sampled"), MAS("batch_mean"), Averaged(MAS())):
        with pytest.raises(InputError, match=r"use MAS|per_sample"):
            Clipped(of, 1)
    for most in (0, -1, math.nan):
        with pytest.raises(InputError, match="positive number"):
            Clipped(MAS(), most)
    with pytest.raises(InputError, match="needs at least one image"):
        Clipped(MAS(), 1)(BATCH_NORM.build(), BATCH_NORM.expert(), [])
