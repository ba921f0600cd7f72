"""MAS against its loop, and what it must not read."""

import pytest
import torch

from dua_lightning.importance import MAS
from dua_lightning.tasks import Task
from tests.helpers.nets import CASES, MLP, Case, batches, close, equal, labels
from tests.reference.mas_loop import mas


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("n", [1, 6])
def test_mas_is_the_mean_over_images_of_the_absolute_gradient(case: Case, n: int) -> None:
    net, x = case.build(), case.images(n)
    close(MAS()(net, case.expert(), batches(x, None, 4)), mas(net, case.expert(), x))


@pytest.mark.parametrize("case", CASES)
def test_mas_never_reads_labels(case: Case) -> None:
    x = case.images(4)
    without = MAS()(case.build(), case.expert(), [(x, None)])
    equal(MAS()(case.build(), case.expert(), [(x, labels(4))]), without)
    equal(MAS()(case.build(), case.expert(), [(x, object())]), without)
    assert MAS().needs_labels is False


def test_gradients_of_opposite_sign_do_not_cancel() -> None:
    x = torch.cat([MLP.images(3), -MLP.images(3)])
    alone = [MAS()(MLP.build(), MLP.expert(), [(xi[None], None)]) for xi in x]
    together = MAS()(MLP.build(), MLP.expert(), [(x, None)])
    close(together, {name: sum(one[name] for one in alone) / 6 for name in together})


def test_mas_reads_the_tasks_own_logits_alone() -> None:
    x, whole = MLP.images(3), MLP.expert(task=Task("all", slice(0, 6)))
    first, second = (MLP.expert(task=Task("half", half)) for half in (slice(0, 3), slice(3, 6)))
    a, b, c = (MAS()(MLP.build(), expert, [(x, None)]) for expert in (first, second, whole))
    assert not torch.allclose(a["body.1.weight"], b["body.1.weight"])
    assert not torch.allclose(a["body.1.weight"], c["body.1.weight"])
    close(b, mas(MLP.build(), second, x))
