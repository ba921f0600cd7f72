"""The cost of a merge in each of its places, and the same model in all of them."""

import math

import pytest
import torch

from dua_lightning.errors import InputError
from dua_lightning.merge import Mean, Mode
from dua_lightning.privacy.encrypted import ERROR, Encrypted
from dua_lightning.privacy.where import Metered, size
from dua_lightning.tasks import Expert, Prior, Task
from tests.helpers.nets import equal
from tests.reference.mode_loop import mode

TASKS = tuple(Task(f"t{place}", slice(0, 2)) for place in range(3))


def experts(scale: float = 1.0) -> list[Expert]:
    """Experts with 6 + 3 shared weights and 2 of the head, each of 4 bytes, and a buffer of 8."""
    stream = torch.Generator().manual_seed(1)
    return [
        Expert(
            task,
            {
                "body.weight": scale * torch.randn(2, 3, generator=stream),
                "body.bias": scale * torch.randn(3, generator=stream),
                "body.num_batches_tracked": torch.tensor(5),
                "head.bias": torch.randn(2, generator=stream),
            },
        )
        for task in TASKS
    ]


def priors() -> list[Prior]:
    stream = torch.Generator().manual_seed(2)
    found = [
        {"body.weight": torch.rand(2, 3, generator=stream), "body.bias": torch.rand(3, generator=stream)} for _ in TASKS
    ]
    for prior in found:
        # No expert finds the first entries important.
        prior["body.bias"][0] = 0
    return found


def test_the_device_merges_to_the_bits_of_the_server_and_sends_nothing() -> None:
    found = {}
    for where in ("server", "device"):
        chi = Metered(Mode(), on_device=where == "device")
        assert (chi.needs_prior, chi.keeps_statistics) == (True, False)
        model = chi(experts(), priors(), {})
        equal(model, Mode()(experts(), priors(), {}))
        found[where] = chi.cost(3 * 9 * 4, experts(), model)
    server, device = found["server"], found["device"]
    # The server sends the merged weights besides, as none of the experts has them.
    assert (server.up, device.up, device.down) == (108, 0, 3 * (11 * 4 + 8))
    assert (server.device_seconds, device.server_seconds) == (0, 0)
    assert min(server.server_seconds, device.device_seconds) > 0
    assert math.isnan(server.peak_bytes)


def test_what_a_model_shares_with_experts_that_a_device_has_is_not_sent_again() -> None:
    chi, found = Metered(Mode()), experts()
    model = chi(found, priors(), {})
    with_experts, alone = (chi.cost(0, there, model).down for there in (found, ()))
    assert with_experts == 3 * (11 * 4 + 8) + 9 * 4
    assert alone == 9 * 4 + 3 * (2 * 4 + 8)
    assert size([model["t0"], model["t0"]]) == 11 * 4 + 8
    chi = Metered(Mean())
    assert chi.cost(0, (), chi(found, [], {})).down == alone


@pytest.mark.parametrize("zero", ["mean", "zero"])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_under_encryption_the_merge_is_eq_1_within_its_stated_error(scale: float, zero: str) -> None:
    pytest.importorskip("tenseal", reason="tenseal is not installed")
    chi, found = Metered(Encrypted(zero)), experts(scale)
    model = chi(found, priors(), {})
    for name in priors()[0]:
        thetas, omegas = [e.state[name].double() for e in found], [prior[name].double() for prior in priors()]
        expected = mode(thetas, omegas)
        if zero == "zero" and name == "body.bias":
            expected[0] = 0
        largest = max(float(theta.abs().max()) for theta in thetas)
        for state in model.values():
            assert (state[name].double() - expected).abs().max() <= ERROR * max(1, largest)
            assert state[name].dtype == torch.float32
    cost = chi.cost(0, found, model)
    assert cost.up > 9 * 4 * 3
    assert cost.down > size([expert.state for expert in found])
    assert min(cost.device_seconds, cost.server_seconds) > 0


def test_priors_and_experts_that_no_share_or_product_can_be_made_of_are_refused() -> None:
    pytest.importorskip("tenseal", reason="tenseal is not installed")
    for wrong in (-1.0, math.nan, math.inf):
        found = priors()
        found[1]["body.weight"][0, 0] = wrong
        with pytest.raises(InputError, match="negative, infinite or NaN"):
            Encrypted()(experts(), found, {})
    broken = experts()
    broken[2].state["body.bias"][1] = math.nan
    with pytest.raises(InputError, match=r"the expert of task t2 is not finite at body\.bias"):
        Encrypted()(broken, priors(), {})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_memory_is_counted() -> None:
    def there(found: list[Expert]) -> list[Expert]:
        return [Expert(e.task, {name: t.cuda() for name, t in e.state.items()}) for e in found]

    chi, found = Metered(Mode()), there(experts())
    model = chi(found, [{name: omega.cuda() for name, omega in prior.items()} for prior in priors()], {})
    assert chi.cost(0, found, model).peak_bytes >= 9 * 4
