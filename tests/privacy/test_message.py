"""A prior as a message: the same prior comes back, or one line that says why it is refused."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from dua_lightning.errors import InputError
from dua_lightning.importance import MAS
from dua_lightning.importance.averaged import Level, averaged
from dua_lightning.merge import Mode
from dua_lightning.params import Params
from dua_lightning.privacy.message import largest, load_prior, load_priors, save_prior
from dua_lightning.store.tensorfile import fingerprint
from dua_lightning.tasks import Expert
from tests.helpers.tiny import network, same, tasks

NET = network(count=2)


def expert(place: int = 0, seed: int = 0) -> Expert:
    return Expert(tasks(2)[place], network(count=2, seed=seed).state_dict())


def measured(place: int = 0) -> Params:
    images = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(place))
    return MAS()(NET, expert(place), [(images, None)])


BOUNDS = largest(measured())
ABOUT: dict[str, Any] = {"importance": "mas", "images": 5, "sender": "ann"}


def forged(path: Path, change: Callable[[dict[str, Tensor]], Any] = lambda tensors: None, **about: Any) -> Path:
    """A message as somebody writes who knows the format: the digest is right, whatever it holds."""
    save_prior(path, measured(), expert(), **ABOUT)
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        said = json.loads(file.metadata()["about"]) | about
    change(tensors)
    text = json.dumps(said)
    save_file(tensors, path, {"about": text, "sha256": fingerprint(tensors, text)})
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("level", ["weight", "channel", "layer", "expert"])
def test_the_prior_comes_back_bit_for_bit(level: Level, dtype: torch.dtype, tmp_path: Path) -> None:
    prior = averaged({name: omega.to(dtype) for name, omega in measured().items()}, level)
    path = save_prior(tmp_path / "a" / "prior", prior, expert(), level=level, **ABOUT)
    bounds = dict.fromkeys(prior, math.inf)
    message = load_prior(path, expert(), bounds, trusted=None)
    assert same(message.prior, prior)
    assert {omega.dtype for omega in message.prior.values()} == {dtype}
    assert (message.about.level, message.about.task, message.about.images) == (level, "a", 5)
    assert message.bytes == path.stat().st_size
    assert [file.name for file in path.parent.iterdir()] == ["prior"]


def test_a_message_of_few_numbers_is_small(tmp_path: Path) -> None:
    sizes = {}
    for level in ("weight", "channel", "layer", "expert"):
        prior = averaged(measured(), level)
        path = save_prior(tmp_path / level, prior, expert(), level=level, **ABOUT)
        with safe_open(path, framework="pt") as file:
            sizes[level] = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118
    shapes = [omega.shape for omega in measured().values()]
    assert sizes == {
        "weight": sum(shape.numel() for shape in shapes),
        "channel": sum(shape[0] for shape in shapes),
        "layer": len(shapes),
        "expert": 1,
    }


def test_settings_release_and_time_are_kept(tmp_path: Path) -> None:
    given: dict[str, Any] = {"settings": {"estimator": "paper"}, "release": {"name": "gaussian", "epsilon": 1.5}}
    path = save_prior(tmp_path / "prior", measured(), expert(), **ABOUT, **given)
    about = load_prior(path, expert(), BOUNDS, trusted=None).about
    assert (about.settings, about.release) == (given["settings"], given["release"])
    assert about.time.tzinfo is not None


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "no file": (lambda path: path, "there is no such file"),
    "a text": (lambda path: (path.write_text("a prior"), path)[1], "no file of safetensors"),
    "tensors alone": (lambda path: (save_file(measured(), path), path)[1], "no message with a prior"),
    "another version": (lambda path: forged(path, version=2), "version 2 of the format"),
    "a level that there is not": (lambda path: forged(path, level="pixel"), "level: "),
    "images below 0": (lambda path: forged(path, images=-1), "images: "),
    "a time of nowhere": (lambda path: forged(path, time="2020-01-01T00:00:00"), "time: "),
    "a stale prior": (lambda path: forged(path, expert="0" * 64), "a stale prior, of the expert 00000000"),
    "a foreign prior": (lambda path: forged(path, network="0" * 64), "a foreign prior, of the network 00000000"),
    "a lack": (lambda path: forged(path, lambda tensors: tensors.popitem()), "it lacks "),
    "one too many": (lambda path: forged(path, lambda tensors: tensors.update(a=torch.ones(1))), "it has 'a'"),
    "another shape": (lambda path: forged(path, lambda tensors: turn(tensors, lambda t: t.flatten()[:2])), "(2,)"),
    "integers": (lambda path: forged(path, lambda tensors: turn(tensors, Tensor.int)), "torch.int32"),
    "another level": (lambda path: forged(path, level="channel"), "a prior by channel has"),
    "NaN": (lambda path: forged(path, lambda tensors: turn(tensors, lambda t: t * math.nan)), "not finite"),
    "infinity": (lambda path: forged(path, lambda tensors: turn(tensors, lambda t: t + math.inf)), "not finite"),
    "negative": (lambda path: forged(path, lambda tensors: turn(tensors, lambda t: t - 1e-3)), "negative"),
    "huge": (lambda path: forged(path, lambda tensors: turn(tensors, lambda t: t * 100)), "the server takes at most"),
    "beyond float32": (lambda path: forged(path, lambda tensors: turn(tensors, lambda t: t * 0 + 3e38)), "at most"),
    "a large file": (lambda path: (forged(path), path.write_bytes(path.read_bytes() + bytes(10**6)), path)[2], "bytes"),
}


def turn(tensors: dict[str, Tensor], change: Callable[[Tensor], Tensor]) -> None:
    name = next(name for name in tensors if name.endswith("weight"))
    tensors[name] = change(tensors[name]).contiguous()


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_prior_of_the_expert_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    make, reason = REFUSED[case]
    path = make(tmp_path / "prior")
    with pytest.raises(InputError) as error:
        load_prior(path, expert(), BOUNDS, trusted=None)
    (line,) = str(error.value).splitlines()
    assert line.startswith(f"{path} is refused: ")
    assert reason in line


def test_a_file_is_too_large_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "prior"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match="1,099,511,627,776 bytes, and no prior of this expert has more than"):
        load_prior(path, expert(), BOUNDS, trusted=None)


def test_a_message_for_one_expert_is_of_no_use_for_another(tmp_path: Path) -> None:
    path = save_prior(tmp_path / "prior", measured(), expert(), **ABOUT)
    other = replace(expert(), state={name: tensor + 1e-3 for name, tensor in expert().state.items()})
    for wrong in (expert(place=1), expert(seed=1), other):
        with pytest.raises(InputError, match="a stale prior"):
            load_prior(path, wrong, BOUNDS, trusted=None)
    with pytest.raises(InputError, match="a foreign prior"):
        load_prior(path, Expert(tasks(3)[0], network(count=3).state_dict()), BOUNDS, trusted=None)


def test_the_bound_is_a_multiple_of_the_servers_norm(tmp_path: Path) -> None:
    prior = {name: 9.99 * omega for name, omega in measured().items()}
    path = save_prior(tmp_path / "prior", prior, expert(), **ABOUT)
    assert same(load_prior(path, expert(), BOUNDS, trusted=None).prior, prior)
    for bounds in (largest(measured(), 9.98), dict.fromkeys(prior, 1e-9), dict.fromkeys(prior, math.nan)):
        with pytest.raises(InputError, match="has the norm"):
            load_prior(path, expert(), bounds, trusted=None)


@pytest.mark.parametrize("value", [math.nan, -1.0])
def test_a_device_does_not_send_what_is_no_importance(value: float, tmp_path: Path) -> None:
    prior = {name: omega * value for name, omega in measured().items()}
    with pytest.raises(InputError, match="the prior of task a is none"):
        save_prior(tmp_path / "prior", prior, expert(), **ABOUT)
    with pytest.raises(InputError, match="is no number for each weight"):
        save_prior(tmp_path / "prior", {"gram": torch.ones(2, 2)}, expert(), **ABOUT)
    with pytest.raises(InputError, match="give plain values"):
        save_prior(tmp_path / "prior", measured(), expert(), release={"epsilon": math.inf}, **ABOUT)
    assert not list(tmp_path.iterdir())


def test_numbers_that_differ_are_not_sent_as_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r'give averaged\(prior, "channel"\)'):
        save_prior(tmp_path / "prior", measured(), expert(), level="channel", **ABOUT)


def sent(folder: Path) -> list[Path]:
    return [save_prior(folder / str(t), measured(t), expert(t), **ABOUT) for t in (1, 0)]


def test_messages_become_the_priors_of_a_merge(tmp_path: Path) -> None:
    experts, bounds = [expert(0), expert(1)], [largest(measured(t)) for t in (0, 1)]
    messages = load_priors(sent(tmp_path), experts, bounds, trusted=None)
    merged = Mode()(experts, [message.prior for message in messages], NET.state_dict())
    plain = Mode()(experts, [measured(0), measured(1)], NET.state_dict())
    assert all(same(merged[task], plain[task]) for task in plain)


def test_one_users_messages_are_one_for_each_task(tmp_path: Path) -> None:
    experts, bounds = [expert(0), expert(1)], [largest(measured(t)) for t in (0, 1)]
    paths = sent(tmp_path)
    with pytest.raises(InputError, match="there is no message with a prior of task a"):
        load_priors(paths[:1], experts, bounds, trusted=None)
    with pytest.raises(InputError, match="the second one of task b"):
        load_priors([*paths, paths[0]], experts, bounds, trusted=None)
    with pytest.raises(InputError, match="of task 'b', and the server has the tasks a"):
        load_priors(paths, experts[:1], bounds[:1], trusted=None)
    other = save_prior(tmp_path / "other", measured(), expert(), **{**ABOUT, "sender": "bob"})
    with pytest.raises(InputError, match="from 'bob', and others are from 'ann'"):
        load_priors([paths[0], other], experts, bounds, trusted=None)


@cache
def written(folder: Path) -> tuple[bytes, Params]:
    prior = averaged(measured(), "layer")
    return save_prior(folder / "good", prior, expert(), level="layer", **ABOUT).read_bytes(), prior


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(place=st.floats(0, 1, exclude_max=True), value=st.integers(1, 255))
def test_a_changed_byte_is_refused_or_changes_nothing(place: float, value: int, tmp_path: Path) -> None:
    good, prior = written(tmp_path)
    at = int(place * len(good))
    path = tmp_path / "changed"
    path.write_bytes(good[:at] + bytes([good[at] ^ value]) + good[at + 1 :])
    try:
        message = load_prior(path, expert(), dict.fromkeys(prior, math.inf), trusted=None)
    except InputError:
        return
    assert same(message.prior, prior)
    assert (message.about.sender, message.about.images) == ("ann", 5)
