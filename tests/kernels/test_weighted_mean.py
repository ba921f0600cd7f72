"""The compiled loop: its numbers at every boundary, its threads, and what it costs to load and to hold in memory."""

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dua_lightning.kernels import weighted_mean as kernel
from dua_lightning.merge import Mode
from dua_lightning.merge import mode as module
from dua_lightning.params import Params, State
from dua_lightning.store.store import Recipe, Store
from dua_lightning.tasks import Expert, Task, UserModel
from tests.helpers.nets import close, equal

W = "body.weight"
B = kernel.BLOCK
START: State = {}
SIZES = (1, B - 1, B, B + 1, 3 * B, 1000, 7 * B + 5)
TASKS = [Task(f"t{t}", slice(2 * t, 2 * t + 2)) for t in range(6)]


def drawn(sizes: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float32) -> State:
    stream = torch.Generator().manual_seed(seed)
    return {f"body.{i}": torch.randn(size, generator=stream, dtype=dtype) for i, size in enumerate(sizes)}


def experts(count: int, dtype: torch.dtype = torch.float32) -> list[Expert]:
    return [Expert(task, drawn(SIZES, t, dtype)) for t, task in enumerate(TASKS[:count])]


def priors(count: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> list[Params]:
    """Importances of several orders of magnitude, many of them 0 for all experts."""
    normal = [drawn(SIZES, 100 * seed + 50 + t, torch.float64) for t in range(count)]
    return [{name: (4 * n).exp().to(dtype) * (normal[0][name] > -1) for name, n in own.items()} for own in normal]


def by(path: str, monkeypatch: pytest.MonkeyPatch, merge: Mode, *given: object) -> UserModel:
    monkeypatch.setattr(module, "COMPILED_FROM", 0 if path == "compiled" else sys.maxsize)
    return merge(*given, START)


def apart(a: UserModel, b: UserModel, experts: list[Expert]) -> float:
    """Largest difference in units in the last place of the largest expert weight at that place."""

    def units(name: str) -> Tensor:
        largest = torch.stack([expert.state[name] for expert in experts]).abs().amax(0)
        return (a["t0"][name] - b["t0"][name]).abs() / (largest * torch.finfo(largest.dtype).eps)

    return max(float(units(name).max()) for name in a["t0"])


@pytest.mark.parametrize("dtypes", [(torch.float32,) * 2, (torch.float32, torch.bfloat16), (torch.float64,) * 2])
@pytest.mark.parametrize("rule", ["mean", "zero"])
@pytest.mark.parametrize("count", [1, 2, 6])
def test_the_loop_is_what_torch_computes_but_for_rounding(
    dtypes: tuple[torch.dtype, torch.dtype], rule: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch rounds the last multiplication and addition once where its vectors do, the loop twice."""
    given = experts(count, dtypes[0]), priors(count, dtypes[1])
    monkeypatch.setattr(kernel, "CHUNK", 300)
    loop, plain = (by(path, monkeypatch, Mode(rule), *given) for path in ("compiled", "torch"))
    assert apart(loop, plain, given[0]) < count
    for name in loop["t0"]:
        if rule == "zero":
            nobody = torch.stack([prior[name] for prior in given[1]]).sum(0) == 0
            equal(loop["t0"][name] == 0, nobody)


@pytest.mark.parametrize("chunk", [1, B + 3, 10**6])
def test_any_number_of_threads_gives_the_same_bits(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    given = experts(3), priors(3)
    expected = by("compiled", monkeypatch, Mode(), *given)
    monkeypatch.setattr(kernel, "CHUNK", chunk)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            equal(by("compiled", monkeypatch, Mode(), *given), expected)
    finally:
        torch.set_num_threads(before)


def test_types_may_differ_from_tensor_to_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = [(torch.float32, torch.bfloat16), (torch.float64, torch.float64), (torch.float32, torch.float16)]
    ours, theirs = experts(3), priors(3)
    for (theta, omega), name in zip(kinds, ours[0].state, strict=False):
        for expert, prior in zip(ours, theirs, strict=True):
            expert.state[name], prior[name] = expert.state[name].to(theta), prior[name].clamp(max=6e4).to(omega)
    loop, plain = (by(path, monkeypatch, Mode(), ours, theirs) for path in ("compiled", "torch"))
    assert apart(loop, plain, ours) < 3
    assert {name: t.dtype for name, t in loop["t0"].items()} == {name: t.dtype for name, t in ours[0].state.items()}


@pytest.mark.parametrize("value", [torch.nan, -torch.nan, torch.inf, -torch.inf, -1e-45, -1.0, 3e38])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_every_bad_importance_is_seen(value: float, dtype: torch.dtype) -> None:
    theta = torch.ones(B + 1, dtype=torch.float64 if dtype is torch.float64 else torch.float32)
    omega = torch.ones(B + 1, dtype=dtype)
    assert kernel.merge([theta, theta], [omega, omega], False)[1]
    largest = torch.finfo(theta.dtype).max
    for at in (0, B):
        bad = omega.clone()
        bad[at] = value if abs(value) != 3e38 else largest * 0.9
        assert not kernel.merge([theta, theta], [omega, bad], False)[1]
        assert not kernel.merge([theta, theta], [bad, omega], False)[1]


@pytest.mark.parametrize("value", [torch.nan, -torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_merged_weight_that_is_not_finite_is_seen(value: float, dtype: torch.dtype) -> None:
    theta, omega = -torch.ones(B + 1, dtype=dtype), torch.ones(B + 1, dtype=dtype)
    assert kernel.merge([theta, theta], [omega, omega], True)[1]
    for at in (0, B):
        bad = theta.clone()
        bad[at] = value
        assert not kernel.merge([theta, bad], [omega, omega], True)[1]
        assert not kernel.merge([bad], [omega], True)[1]


def anonymous() -> int:
    """Bytes of this process that no file backs."""
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("RssAnon"))
    return 1024 * int(line.split()[1])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux")
@pytest.mark.parametrize("path", ["compiled", "torch"])
def test_stored_experts_are_read_from_their_files(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    recipes = [Recipe("experts", {"task": task.name}) for task in TASKS[:4]]
    # They have 32 MiB: from that size on, memory that is freed goes back to the system at once.
    theta, prior = ({W: torch.rand(1 << 23)} for _ in range(2))
    for recipe in recipes:
        store.put(recipe, theta)
    by(path, monkeypatch, Mode(), [Expert(task, theta) for task in TASKS[:4]], [prior] * 4)
    before = anonymous()
    found = [Expert(task, store.get(recipe)) for task, recipe in zip(TASKS[:4], recipes, strict=True)]
    model = by(path, monkeypatch, Mode(), found, [prior] * 4)
    # The merged weights are new memory; the four experts are not.
    assert anonymous() - before < theta[W].nbytes * 3 / 2
    close(model["t0"][W], theta[W], 1e-6)
