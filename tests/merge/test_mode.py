"""Mode merge against exact arithmetic, and the laws of a weighted mean: for the compiled loop and for torch."""

import copy
import sys
from collections.abc import Callable, Iterator, Sequence
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dua_lightning.errors import InputError
from dua_lightning.importance import MAS, Uniform
from dua_lightning.kernels import weighted_mean as kernel
from dua_lightning.merge import Mean, Mode
from dua_lightning.merge import mode as module
from dua_lightning.params import Params, State
from dua_lightning.tasks import Expert, Task
from tests.helpers.nets import BATCH_NORM, TIED, Case, close, equal, law
from tests.reference.mode_loop import mode

W = "body.weight"
START: State = {}
"""Mode does not read it."""
Drawn = tuple[list[Tensor], list[Tensor]]
"""Weights and importances `(size,)` of one to four experts."""
Rename = Callable[[str], str]
thetas = st.floats(-1e3, 1e3, allow_subnormal=False)
ordinary = st.just(0.0) | st.floats(1e-6, 1e6)
extreme = st.just(0.0) | st.floats(1e-290, 1e290)


@pytest.fixture(scope="module", autouse=True, params=["compiled", "torch"])
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    """Cut into so small pieces that few weights make many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "COMPILED_FROM", 0 if request.param == "compiled" else sys.maxsize)
        patch.setattr(kernel, "CHUNK", 2)
        yield request.param


def expert(t: int, theta: Tensor) -> Expert:
    """Expert `t` of a network with a body of one weight, a buffer and a head."""
    own = torch.full((2,), float(t), dtype=theta.dtype)
    return Expert(Task(f"t{t}", slice(2 * t, 2 * t + 2)), {W: theta, "body.mean": own, "head.weight": -own})


def merged(values: Sequence[Tensor], omegas: Sequence[Tensor]) -> Tensor:
    """The merged body weight, which all tasks share."""
    model = Mode()([expert(t, theta) for t, theta in enumerate(values)], [{W: omega} for omega in omegas], START)
    assert list(model) == [f"t{t}" for t in range(len(values))]
    for state in model.values():
        equal(state[W], model["t0"][W])
    return model["t0"][W]


@st.composite
def merges(draw: st.DrawFn, omegas: st.SearchStrategy[float]) -> Drawn:
    count, size = draw(st.integers(1, 4)), draw(st.integers(1, 3))

    def vectors(numbers: st.SearchStrategy[float]) -> list[Tensor]:
        rows = draw(st.lists(st.lists(numbers, min_size=size, max_size=size), min_size=count, max_size=count))
        return list(torch.tensor(rows, dtype=torch.float64))

    return vectors(thetas), vectors(omegas)


def tolerance(values: Sequence[Tensor]) -> float:
    """Rounding of a mean of these numbers, which may be next to 0."""
    return 1e-13 * max(float(theta.abs().max()) for theta in values) + 1e-300


@law
@given(merges(ordinary) | merges(extreme))
def test_mode_is_the_weighted_mean_in_exact_arithmetic(drawn: Drawn) -> None:
    torch.testing.assert_close(merged(*drawn), mode(*drawn), rtol=0, atol=tolerance(drawn[0]))


@law
@given(merges(ordinary | extreme))
def test_a_merged_weight_stays_within_the_experts_range(drawn: Drawn) -> None:
    values = torch.stack(drawn[0])
    rounding = tolerance(drawn[0])
    assert (merged(*drawn) >= values.amin(0) - rounding).all()
    assert (merged(*drawn) <= values.amax(0) + rounding).all()


@law
@given(merges(ordinary), st.floats(1e-6, 1e6))
def test_the_scale_of_all_priors_does_not_matter(drawn: Drawn, scale: float) -> None:
    values, omegas = drawn
    scaled = merged(values, [omega * scale for omega in omegas])
    torch.testing.assert_close(scaled, merged(values, omegas), rtol=0, atol=tolerance(values))


@law
@given(merges(ordinary), st.randoms(use_true_random=False))
def test_the_order_of_the_experts_does_not_matter(drawn: Drawn, random: Random) -> None:
    values, omegas = drawn
    order = list(range(len(values)))
    random.shuffle(order)
    shuffled = merged([values[i] for i in order], [omegas[i] for i in order])
    torch.testing.assert_close(shuffled, merged(values, omegas), rtol=0, atol=tolerance(values))


@law
@given(merges(ordinary))
def test_uniform_and_all_zero_priors_give_the_mean(drawn: Drawn) -> None:
    values, _ = drawn
    mean = torch.stack(values).mean(0)
    for constant in (torch.ones_like, torch.zeros_like):
        torch.testing.assert_close(merged(values, [constant(v) for v in values]), mean, rtol=0, atol=tolerance(values))


@law
@given(st.lists(thetas, min_size=1, max_size=4), ordinary)
def test_a_single_expert_is_itself(theta: list[float], omega: float) -> None:
    alone = torch.tensor(theta, dtype=torch.float64)
    equal(merged([alone], [torch.full_like(alone, omega)]), alone)


@pytest.mark.parametrize(
    ("omegas", "expected"),
    [
        ([1.0, 0.0, 0.0], 2.0),
        ([0.0, 0.0, 1.0], 11.0),
        ([1.0, 3.0, 0.0], 4.25),
        ([0.0, 0.0, 0.0], 6.0),
        ([0.0, 2.0, 2.0], 8.0),
        ([1e-40, 0.0, 1e-40], 6.5),
        ([1e38, 1e38, 0.0], 3.5),
    ],
)
def test_float32_loses_neither_zeros_nor_tiny_nor_huge_importances(omegas: list[float], expected: float) -> None:
    values = [torch.tensor([theta]) for theta in (2.0, 5.0, 11.0)]
    result = merged(values, [torch.tensor([omega]) for omega in omegas])
    assert result.dtype is torch.float32
    assert result.tolist() == pytest.approx([expected], rel=1e-6)


@pytest.mark.parametrize("case", [BATCH_NORM, TIED], ids=lambda case: case.name)
def test_the_body_is_merged_and_the_rest_is_each_tasks_own(case: Case) -> None:
    experts = [case.expert(seed, Task(f"t{seed}", slice(2 * seed, 2 * seed + 2))) for seed in range(3)]
    priors = [MAS()(case.build(), e, [(case.images(4, seed), None)]) for seed, e in enumerate(experts)]
    model = Mode()(experts, priors, START)
    for e in experts:
        state = model[e.task.name]
        assert list(state) == list(e.state)
        for name, tensor in state.items():
            if name in priors[0]:
                close(tensor, mode([other.state[name] for other in experts], [prior[name] for prior in priors]))
            else:
                equal(tensor, e.state[name])
        case.build().load_state_dict(state)


@pytest.mark.parametrize("importance", [MAS(), Uniform()], ids=["mas", "uniform"])
@pytest.mark.parametrize("count", [1, 3])
def test_neither_experts_nor_priors_change(importance: MAS | Uniform, count: int) -> None:
    experts = [BATCH_NORM.expert(seed, Task(f"t{seed}", slice(0, 2))) for seed in range(count)]
    priors = [importance(BATCH_NORM.build(), e, [(BATCH_NORM.images(2), None)]) for e in experts]
    before = copy.deepcopy(([e.state for e in experts], priors))
    for state in Mode()(experts, priors, START).values():
        for name in priors[0]:
            state[name].add_(1)
    equal(([e.state for e in experts], priors), before)


TWO = [expert(0, torch.zeros(2)), expert(1, torch.ones(2))]
GOOD = {W: torch.ones(2)}


@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize(
    "bad",
    [
        pytest.param({W: torch.tensor([1.0, torch.nan])}, id="nan"),
        pytest.param({W: torch.tensor([1.0, torch.inf])}, id="infinite"),
        pytest.param({W: torch.tensor([1.0, -1e-9])}, id="negative"),
        pytest.param({W: torch.ones(1)}, id="another shape that would broadcast"),
        pytest.param({W: torch.ones(2, 1)}, id="another rank"),
        pytest.param({W: torch.ones(2, dtype=torch.complex64)}, id="complex"),
        pytest.param({}, id="a missing weight"),
        pytest.param({"body.w": torch.ones(2)}, id="an unknown weight"),
        pytest.param({**GOOD, "body.w": torch.ones(2)}, id="one weight too many"),
    ],
)
def test_a_prior_that_does_not_fit_is_an_input_error_that_names_its_task(bad: Params, at: int) -> None:
    priors = [GOOD, GOOD]
    priors[at] = bad
    with pytest.raises(InputError, match=r"prior of task t[01]"):
        Mode()(TWO, priors, START)


@pytest.mark.parametrize(("experts", "priors"), [(2, 1), (1, 2), (2, 0), (0, 0)])
def test_another_number_of_priors_than_experts_is_an_input_error(experts: int, priors: int) -> None:
    with pytest.raises(InputError, match=f"{experts} experts, {priors} priors"):
        Mode()(TWO[:experts], [GOOD] * priors, START)


def test_priors_that_name_no_weight_are_an_input_error() -> None:
    with pytest.raises(InputError, match="names no weights"):
        Mode()(TWO, [{}, {}], START)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int64])
def test_a_prior_of_another_type_weighs_as_its_values_do(dtype: torch.dtype) -> None:
    merged = Mode()(TWO, [{W: torch.tensor([1, 2]).to(dtype)}, {W: torch.tensor([3, 2]).to(dtype)}], START)
    close(merged["t0"][W], torch.tensor([0.75, 0.5]))


def test_the_released_rule_makes_0_of_what_nobody_finds_important() -> None:
    experts = [expert(0, torch.tensor([4.0, 6.0])), expert(1, torch.tensor([8.0, 10.0]))]
    priors = [{W: torch.tensor([0.0, 1.0])}, {W: torch.tensor([0.0, 3.0])}]
    equal(Mode("zero")(experts, priors, START)["t0"][W], torch.tensor([0.0, 9.0]))
    equal(Mode("mean")(experts, priors, START)["t0"][W], torch.tensor([6.0, 9.0]))


def test_batch_norm_statistics_are_each_tasks_own() -> None:
    experts = [BATCH_NORM.expert(seed, Task(f"t{seed}", slice(0, 2))) for seed in range(3)]
    model = Mode()(experts, [Uniform()(BATCH_NORM.build(), e, []) for e in experts], START)
    for e in experts:
        for name in (name for name in e.state if "running" in name):
            assert model[e.task.name][name] is e.state[name]


def some(t: int, seed: int = 0) -> State:
    """Weights of expert `t`: tensors of several ranks and sizes, in float32."""
    stream = torch.Generator().manual_seed(10 * seed + t)
    shapes = {"body.0": (7, 5), "body.1": (), "body.2": (129,), "body.3": (2, 3, 2)}
    return {name: torch.randn(shape, generator=stream) for name, shape in shapes.items()}


SOME = [Expert(Task(f"t{t}", slice(2 * t, 2 * t + 2)), some(t) | {"head": torch.randn(3)}) for t in range(3)]


def important(seed: int) -> list[Params]:
    """Priors of one user for `SOME`."""
    return [{name: tensor.square() for name, tensor in some(t, seed).items()} for t in range(3)]


def test_the_chosen_path_is_taken(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, merge = [], kernel.merge
    monkeypatch.setattr(kernel, "merge", lambda *given: calls.append(1) or merge(*given))
    Mode()(SOME, important(1), START)
    assert bool(calls) == (path == "compiled")


def test_tensors_that_do_not_lie_in_order_are_merged_as_others_are() -> None:
    def turned(state: Params) -> Params:
        return {name: tensor.mT.contiguous().mT if tensor.ndim > 1 else tensor for name, tensor in state.items()}

    experts = [Expert(e.task, turned(e.state)) for e in SOME]
    expected = Mode()(SOME, important(1), START)
    for model in (
        Mode()(experts, important(1), START),
        Mode()(SOME, [turned(prior) for prior in important(1)], START),
    ):
        torch.testing.assert_close(model, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -1.0])
def test_one_bad_entry_at_the_end_of_the_last_tensor_is_found(value: float) -> None:
    priors = important(1)
    priors[2]["body.3"][-1, -1, -1] = value
    with pytest.raises(InputError, match=r"prior of task t2 cannot weigh body\.3"):
        Mode()(SOME, priors, START)


def test_a_weight_without_entries_is_merged_to_itself() -> None:
    nothing = torch.zeros(0, 3)
    equal(merged([nothing, nothing], [nothing, nothing]), nothing)
    equal(Mean()([expert(t, nothing) for t in range(2)], [], START)["t0"][W], nothing)


def test_importances_that_look_bad_and_are_not() -> None:
    experts = [expert(0, torch.tensor([2.0, 2.0])), expert(1, torch.tensor([4.0, 4.0]))]
    half = torch.finfo(torch.float32).max / 2
    result = Mode()(experts, [{W: torch.tensor([-0.0, half])}, {W: torch.tensor([-0.0, half])}], START)
    equal(result["t0"][W], torch.tensor([3.0, 3.0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_importances_whose_sum_is_too_large_for_their_type_weigh_as_their_ratios(dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    omegas = [torch.tensor([most, 3.0, 0.0], dtype=dtype) for most in (largest, largest / 2, 1.0)]
    values = [torch.tensor([theta] * 3) for theta in (1.0, 4.0, 10.0)]
    close(merged(values, omegas), torch.tensor([2.0, 5.0, 5.0]), 1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_importances_that_are_too_large_for_the_type_of_the_weights_weigh_all_the_same(dtype: torch.dtype) -> None:
    omegas = [torch.tensor([omega], dtype=torch.float64) for omega in (1e39, 3e39)]
    assert merged([torch.tensor([theta], dtype=dtype) for theta in (1.0, 3.0)], omegas).item() == 2.5


TYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@law
@given(merges(st.just(0.0) | st.floats(1e-12, 1e12)), st.sampled_from(TYPES), st.sampled_from(TYPES[1:]))
def test_weights_of_every_type_are_the_exact_mean_rounded_once(
    drawn: Drawn, weights: torch.dtype, importances: torch.dtype
) -> None:
    values, omegas = [theta.to(weights) for theta in drawn[0]], [omega.to(importances) for omega in drawn[1]]
    found = merged(values, omegas)
    assert found.dtype is weights
    exact = mode([theta.double() for theta in values], [omega.double() for omega in omegas])
    # Half a unit of the result in its own type, and what weighing in float32 at the least has lost of the largest.
    rounding = torch.finfo(weights).eps * 0.5 * exact.abs() + torch.finfo(weights).tiny
    lost = 1e-6 * max(float(theta.abs().max()) for theta in values)
    assert ((found.double() - exact).abs() <= rounding + lost).all()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("merge", [Mode(), Mean()], ids=["mode", "mean"])
def test_an_expert_that_is_not_finite_is_an_input_error_that_names_weight_and_task(
    merge: Mode | Mean, value: float, dtype: torch.dtype
) -> None:
    bad = [expert(t, torch.tensor([1.0, value if t == 1 else 2.0], dtype=dtype)) for t in range(3)]
    with pytest.raises(InputError, match=r"the merged body\.weight is not finite: .* task t1"):
        merge(bad, [{W: torch.ones(2, dtype=dtype)}] * 3, START)


def test_a_merge_that_leaves_the_range_of_its_type_is_an_input_error() -> None:
    most = torch.finfo(torch.float64).max
    far = [expert(t, torch.tensor([sign * most], dtype=torch.float64)) for t, sign in enumerate((-1, 1))]
    with pytest.raises(InputError, match=r"the merged body\.weight is not finite: the experts' numbers are too large"):
        Mode()(far, [{W: torch.ones(1, dtype=torch.float64)}] * 2, START)


@pytest.mark.parametrize(
    ("rename", "told"),
    [
        (lambda name: f"module.{name}", r"lacks body\.weight: it has module\.body\.weight; take module\. off"),
        (lambda name: name.removeprefix("body."), r"lacks body\.weight: it has weight; put body\. before"),
        (lambda name: f"other.{name[-1]}", r"lacks body\.weight; give a full state"),
    ],
    ids=["a prefix", "no prefix", "other names"],
)
@pytest.mark.parametrize("merge", [Mode(), Mean()], ids=["mode", "mean"])
def test_an_expert_with_other_names_is_an_input_error(merge: Mode | Mean, rename: Rename, told: str) -> None:
    foreign = Expert(TWO[1].task, {rename(name): tensor for name, tensor in TWO[1].state.items()})
    with pytest.raises(InputError, match=f"task t1 .*{told}"):
        merge([TWO[0], foreign], [GOOD] * 2, START)


def test_a_prior_of_a_wrapped_network_is_an_input_error_that_tells_the_names_apart() -> None:
    with pytest.raises(InputError, match=r"task t0 names module\.body\.weight, and its expert lacks .* put module\. b"):
        Mode()(TWO, [{f"module.{W}": torch.ones(2)}] * 2, START)


def test_experts_of_different_shapes_are_an_input_error() -> None:
    with pytest.raises(InputError, match=r"\(3,\), the first prior \(2,\)"):
        Mode()([expert(0, torch.ones(2)), expert(1, torch.ones(3))], [{W: torch.ones(2)}, {W: torch.ones(3)}], START)


@pytest.mark.parametrize(("dtype", "error"), [(torch.bfloat16, 1e-3), (torch.float16, 2e-4)])
def test_priors_of_half_the_size_move_the_weights_by_less_than_a_thousandth(dtype: torch.dtype, error: float) -> None:
    stream = torch.Generator().manual_seed(0)
    experts = [expert(t, torch.randn(2000, generator=stream)) for t in range(4)]
    priors = [{W: torch.randn(2000, generator=stream).exp()} for _ in range(4)]
    whole, half = (
        Mode()(experts, given, START)["t0"][W] for given in (priors, [{W: prior[W].to(dtype)} for prior in priors])
    )
    spread = torch.stack([e.state[W] for e in experts]).std(0).mean()
    assert 0 < (half - whole).abs().mean() < error * spread


def test_bfloat16_keeps_the_small_importances_that_float16_makes_0() -> None:
    experts = [expert(0, torch.tensor([2.0])), expert(1, torch.tensor([4.0]))]
    priors = [{W: torch.tensor([3e-10])}, {W: torch.tensor([1e-10])}]
    for dtype, expected in ((torch.bfloat16, 2.5), (torch.float16, 3.0)):
        result = Mode()(experts, [{W: prior[W].to(dtype)} for prior in priors], START)
        assert result["t0"][W].item() == pytest.approx(expected, rel=1e-2)
