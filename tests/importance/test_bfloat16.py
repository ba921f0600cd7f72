"""A processor that computes bfloat16 more slowly is named once, and only where such passes are asked for."""

from collections.abc import Iterator

import pytest
import torch

from dua_lightning.importance import MAS, bfloat16
from dua_lightning.tasks import Expert
from tests.helpers.nets import MLP, TASK, batches


@pytest.fixture(autouse=True)
def _anew() -> Iterator[None]:
    bfloat16.say_if_slow.cache_clear()
    yield
    bfloat16.say_if_slow.cache_clear()


def measure(importance: MAS) -> None:
    state = {name: tensor.float() for name, tensor in MLP.expert().state.items()}
    importance(MLP.build().float(), Expert(TASK, state), batches(MLP.images(4).float(), None, 2))


@pytest.mark.parametrize(("half", "count"), [(3.0, 1), (1.0, 0), (0.5, 0)])
def test_a_slow_processor_is_named_once(
    half: float, count: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bfloat16, "seconds", lambda dtype: half if dtype == torch.bfloat16 else 1.0)
    measure(MAS())
    assert not caplog.records
    for _ in range(2):
        measure(MAS(precision="bf16"))
    lines = [record.getMessage() for record in caplog.records if record.name == bfloat16.log.name]
    assert len(lines) == count
    assert all("takes 3.0 times as long as in float32; use precision=full" in line for line in lines)


def test_a_product_takes_some_time() -> None:
    assert 0 < bfloat16.seconds(torch.float32) < 10
