"""The released estimator against its loop; it depends on the batches, which the exact one does not."""

import pytest
import torch
from torch import nn

from dua_lightning.errors import InputError
from dua_lightning.importance import FIM, MAS
from dua_lightning.tasks import Expert
from tests.helpers.nets import CASES, MLP, TASK, Case, batches, close, labels
from tests.reference.batchmean_loop import batch_mean

COLUMNS = TASK.classes


@pytest.mark.parametrize("n", [1, 20, 47])
@pytest.mark.parametrize("case", CASES)
def test_it_is_the_loop_over_batches_of_20(case: Case, n: int) -> None:
    net, expert = case.build(), case.expert()
    plain = case.build()
    plain.load_state_dict(expert.state)
    plain.eval()
    x, y = case.images(n), labels(n)
    data = batches(x, y, 7)

    def norm(logits, _):
        return logits[:, COLUMNS].square().sum(1).mean()

    def loss(logits, index):
        return nn.functional.cross_entropy(logits[:, COLUMNS], y[index] - COLUMNS.start)

    for importance, objective, power in (
        (MAS("batch_mean"), norm, 1),
        (FIM(estimator="batch_mean"), loss, 2),
    ):
        expected = batch_mean(plain, x, objective, power)
        omega = importance(net, expert, data)
        for name in omega:
            if name in expected:
                close(omega[name], expected[name])


def test_it_is_smaller_than_the_mean_over_samples() -> None:
    net, expert, data = MLP.build(), MLP.expert(), [(MLP.images(40), labels(40))]
    for released, exact in ((MAS("batch_mean"), MAS()), (FIM(estimator="batch_mean"), FIM())):
        a, b = released(net, expert, data), exact(net, expert, data)
        # |mean| <= mean of |.|, and the square of a mean <= the mean of squares.
        assert all((a[name] <= b[name] + 1e-12).all() for name in a)
        assert not all(torch.allclose(a[name], b[name]) for name in a)


def test_the_floor_is_added_to_every_entry() -> None:
    net, expert, data = MLP.build(), MLP.expert(), [(MLP.images(5), labels(5))]
    plain, raised = FIM()(net, expert, data), FIM(floor=1e-8)(net, expert, data)
    for name in plain:
        close(raised[name], plain[name] + 1e-8)


def test_squares_of_small_gradients_do_not_vanish_in_half_precision() -> None:
    x, half = MLP.images(40) / 100, {name: tensor.half() for name, tensor in MLP.expert().state.items()}
    psi = FIM(estimator="batch_mean")
    omega = psi(MLP.build().half(), Expert(TASK, half), [(x.half(), labels(40))])
    exact = psi(MLP.build(), Expert(TASK, {n: t.double() for n, t in half.items()}), [(x.half().double(), labels(40))])
    weight = "body.1.weight"
    assert omega[weight].dtype == torch.float32
    # Half precision makes 0 of what is below 3e-8.
    assert exact[weight].max() < 1e-4
    torch.testing.assert_close(omega[weight].double(), exact[weight], rtol=0.05, atol=0.01 * float(exact[weight].max()))


def test_no_image_is_an_input_error() -> None:
    for data in ([], [(MLP.images(0), labels(0))]):
        with pytest.raises(InputError, match="at least one image"):
            MAS("batch_mean")(MLP.build(), MLP.expert(), data)
