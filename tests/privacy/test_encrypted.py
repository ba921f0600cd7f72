"""The three places of a merge: the server, the device, and the server under encryption."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dua_lightning.errors import InputError
from dua_lightning.importance import MAS
from dua_lightning.merge import Mode
from dua_lightning.privacy import encrypted
from dua_lightning.tasks import Expert, Prior, Task
from tests.helpers.nets import BATCH_NORM, close, equal

EXPERTS = [BATCH_NORM.expert(seed, Task(f"t{seed}", slice(0, 6))) for seed in (1, 2, 3)]


def priors() -> list[Prior]:
    measured = [MAS()(BATCH_NORM.build(), expert, [(BATCH_NORM.images(4), None)]) for expert in EXPERTS]
    for prior in measured:
        # No expert finds the first entries important.
        for omega in prior.values():
            omega.flatten()[0] = 0
    return measured


def test_the_device_merges_the_experts_that_it_is_sent_to_the_same_bits_as_the_server(tmp_path: Path) -> None:
    found = []
    for place, expert in enumerate(EXPERTS):
        save_file(expert.state, tmp_path / str(place))
        found.append(Expert(expert.task, load_file(tmp_path / str(place))))
    equal(Mode()(found, priors(), {}), Mode()(EXPERTS, priors(), {}))


def test_under_encryption_the_merge_is_eq_1_within_the_tolerance_of_ckks() -> None:
    pytest.importorskip("tenseal", reason="tenseal is not installed")
    device, plain = encrypted.Device(), Mode()(EXPERTS, priors(), {})
    message = device.encrypt(priors())
    answer = encrypted.merge_encrypted(EXPERTS, list(priors()[0]), message)
    model = device.decrypt(answer, priors(), EXPERTS)
    assert model.keys() == plain.keys()
    for task, state in model.items():
        assert state.keys() == plain[task].keys()
        torch.testing.assert_close(state, dict(plain[task]), rtol=1e-5, atol=1e-5)
        close(state["head.weight"], plain[task]["head.weight"], 0)
    assert message.size > len(message.context) > 0


def test_the_message_cannot_be_read_without_the_key_and_a_weight_of_zeros_is_no_obstacle() -> None:
    ts = pytest.importorskip("tenseal", reason="tenseal is not installed")
    zeros = [Expert(expert.task, {name: t * 0 for name, t in expert.state.items()}) for expert in EXPERTS]
    device = encrypted.Device()
    message = device.encrypt(priors())
    with pytest.raises(ValueError, match="secret_key"):
        ts.ckks_vector_from(ts.context_from(message.context), message.chunks[0][0]).decrypt()
    model = device.decrypt(encrypted.merge_encrypted(zeros, list(priors()[0]), message), priors(), zeros)
    assert all(t.abs().max() < 1e-5 for t in model["t1"].values() if t.numel())
    with pytest.raises(InputError, match="shares of 3 experts do not fit 2 experts"):
        encrypted.merge_encrypted(EXPERTS[:2], list(priors()[0]), message)


def test_without_the_library_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encrypted.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'dua_lightning\[privacy\]'"):
        encrypted.Device()
