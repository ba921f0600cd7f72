"""AdaBN against its loop, and the laws that make it AdaBN: statistics of the adapted model itself, and nothing else."""

import copy

import pytest
import torch
from torch import Tensor, nn

from dua_lightning.adapt import AdaBN
from dua_lightning.adapt import adabn as module
from dua_lightning.errors import InputError
from dua_lightning.params import State, eval_mode
from dua_lightning.tasks import Batch
from tests.helpers.nets import CLASSES, MLP, TASK, Case, batch_norms, batches, close, equal, labels, untouched
from tests.reference.adabn_loop import adabn

N = 7


def _images(_: int) -> nn.Sequential:
    return nn.Sequential(
        nn.BatchNorm2d(2),
        nn.Conv2d(2, 4, 3),
        nn.BatchNorm2d(4, momentum=0.3, eps=1e-3),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 3, 2, stride=2),
        nn.BatchNorm2d(3, affine=False),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(12, 5),
        nn.BatchNorm1d(5, momentum=None),
        nn.Linear(5, CLASSES),
    )


def _sequences(_: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv1d(3, 4, 2), nn.BatchNorm1d(4), nn.Tanh(), nn.Conv1d(4, 2, 2), nn.BatchNorm1d(2), nn.Flatten()
    )


IMAGES = Case("2d, 1d, with and without affine", (2, 6, 6), _images)
SEQUENCES = Case("sequences", (3, 6), _sequences)
CASES = [pytest.param(IMAGES, id=IMAGES.name), pytest.param(SEQUENCES, id=SEQUENCES.name)]


def adapted(case: Case, data: list[Batch]) -> State:
    return AdaBN()(case.build(), case.expert().state, TASK, data)


def loaded(case: Case, state: State) -> nn.Module:
    net = case.build()
    net.load_state_dict(state)
    return net


def shifted(case: Case, n: int = N) -> Tensor:
    """A user's images: another mean and another spread than any running statistics."""
    return 3 * case.images(n) + 5


@pytest.mark.parametrize(("case", "n"), [*((case, N) for case in (IMAGES, SEQUENCES)), (SEQUENCES, 1)])
def test_statistics_are_pooled_over_all_images_layer_by_layer_and_nothing_else_changes(case: Case, n: int) -> None:
    before, x = case.expert().state, shifted(case, n)
    after = adapted(case, batches(x, None, 3))
    expected = dict(before)
    for name, (mean, var) in adabn(loaded(case, before), x).items():
        expected[f"{name}.running_mean"], expected[f"{name}.running_var"] = mean, var
        assert not torch.allclose(mean, before[f"{name}.running_mean"], atol=0.1)
        assert not torch.allclose(var, before[f"{name}.running_var"], atol=0.1)
    close(after, expected)
    for name in before:
        if not name.endswith(("running_mean", "running_var")):
            equal(after[name], before[name])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", range(1, N + 1))
def test_batches_do_not_matter(case: Case, size: int) -> None:
    x = shifted(case)
    close(adapted(case, batches(x, None, size)), adapted(case, [(x, None)]))


@pytest.mark.parametrize("case", CASES)
def test_order_does_not_matter(case: Case) -> None:
    x = shifted(case)
    close(adapted(case, batches(x.flip(0), None, 3)), adapted(case, batches(x, None, 3)))


@pytest.mark.parametrize("case", CASES)
def test_the_adapted_model_computes_what_train_mode_computes_of_all_images_at_once(case: Case) -> None:
    x = shifted(case)
    net = loaded(case, adapted(case, batches(x, None, 3))).eval()
    reference = loaded(case, case.expert().state).eval()
    before = reference(x)
    for layer in batch_norms(reference):
        layer.train()
    close(net(x), reference(x), 1e-8)
    assert not torch.allclose(net(x), before, atol=0.1)


@pytest.mark.parametrize("case", CASES)
def test_adapting_again_changes_nothing_more(case: Case) -> None:
    data = batches(shifted(case), None, 3)
    once = adapted(case, data)
    close(AdaBN()(case.build(), once, TASK, data), once)


@pytest.mark.parametrize("case", CASES)
def test_the_statistics_before_do_not_matter(case: Case) -> None:
    data, state = batches(shifted(case), None, 3), case.expert().state
    other = {n: t + 1 if n.endswith(("running_mean", "running_var")) else t for n, t in state.items()}
    close(AdaBN()(case.build(), other, TASK, data), adapted(case, data))


@pytest.mark.parametrize("case", CASES)
def test_labels_are_never_read(case: Case) -> None:
    x = shifted(case)
    without = adapted(case, [(x, None)])
    equal(adapted(case, [(x, labels(N))]), without)
    equal(adapted(case, [(x, object())]), without)
    assert AdaBN().needs_labels is False


@pytest.mark.parametrize("case", CASES)
def test_the_network_and_the_state_are_left_alone(case: Case) -> None:
    net, state, x = case.build(), case.expert().state, shifted(case)
    images = x.clone()
    with untouched(net, state):
        after = AdaBN()(net, state, TASK, batches(x, None, 3))
        for tensor in after.values():
            tensor.zero_()
    equal(x, images)
    with eval_mode(net):
        before = copy.deepcopy(net.state_dict())
        net(x)
    equal(net.state_dict(), before)


def _untracked(_: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, CLASSES))


@pytest.mark.parametrize("case", [MLP, Case("untracked", (5,), _untracked)], ids=lambda case: case.name)
def test_a_network_without_running_statistics_is_an_input_error(case: Case) -> None:
    with pytest.raises(InputError, match="needs BatchNorm layers"):
        AdaBN().check(case.build())
    with pytest.raises(InputError, match="needs BatchNorm layers"):
        adapted(case, [(case.images(2), None)])


def test_a_network_with_running_statistics_passes_the_check() -> None:
    AdaBN().check(IMAGES.build())


@pytest.mark.parametrize("data", [[], [(IMAGES.images(0), None)]], ids=["no batch", "an empty batch"])
def test_no_image_is_an_input_error(data: list[Batch]) -> None:
    with pytest.raises(InputError, match="at least one image of task middle"):
        adapted(IMAGES, data)


@pytest.mark.parametrize("images_at_once", [1, 2, 3, N, N + 1])
@pytest.mark.parametrize("case", CASES)
def test_a_bound_on_memory_changes_nothing_but_rounding(case: Case, images_at_once: int) -> None:
    data = batches(shifted(case), None, 4)
    bounded = AdaBN(images_at_once)(case.build(), case.expert().state, TASK, data)
    whole = adapted(case, data)
    close(
        {k: v for k, v in bounded.items() if v.is_floating_point()},
        {k: whole[k] for k in bounded if whole[k].is_floating_point()},
    )


@pytest.mark.parametrize(("images", "passes"), [(N, 1), (N - 1, 2), (0, N)])
def test_as_many_images_go_at_once_as_have_the_numbers_that_fit(
    images: int, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = shifted(IMAGES)
    monkeypatch.setattr(module, "NUMBERS_AT_ONCE", images * x[0].numel())
    sizes: list[int] = []
    net = IMAGES.build()
    net.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    AdaBN()(net, IMAGES.expert().state, TASK, batches(x, None, 4))
    assert max(sizes) == max(1, images)
    # In parts, a pass is made for each use of a layer, and one more that finds no further use.
    assert len(sizes) == (passes if passes == 1 else passes * (len(batch_norms(net)) + 1))


def test_fewer_than_one_image_at_once_is_an_input_error() -> None:
    with pytest.raises(InputError, match="at least 1 image"):
        AdaBN(0)


def test_the_released_average_keeps_a_share_of_the_start_and_depends_on_the_batches() -> None:
    case, x = IMAGES, shifted(IMAGES, 6)
    state = case.expert().state
    after = AdaBN(statistics="ema")(case.build(), state, TASK, batches(x, None, 2))
    mean, variance = torch.zeros(2).double(), torch.ones(2).double()
    for part in x.split(2):
        mean = 0.9 * mean + 0.1 * part.mean((0, 2, 3))
        variance = 0.9 * variance + 0.1 * part.var((0, 2, 3))
    close(after["0.running_mean"], mean)
    close(after["0.running_var"], variance)
    other = AdaBN(statistics="ema")(case.build(), state, TASK, batches(x, None, 3))
    assert not torch.allclose(after["0.running_mean"], other["0.running_mean"])
    for name in state:
        if "running" not in name and "num_batches" not in name:
            equal(after[name], state[name])


def test_batches_statistics_are_those_of_each_batch_pooled_in_one_pass() -> None:
    case, x = IMAGES, shifted(IMAGES)
    net, state, passes = case.build(), case.expert().state, []
    net.register_forward_pre_hook(lambda _, args: passes.append(len(args[0])))
    after = AdaBN(statistics="batch")(net, state, TASK, batches(x[:6], None, 3))
    assert passes == [3, 3]
    parts = [adabn(loaded(case, state), part) for part in x[:6].split(3)]
    for name in parts[0]:
        means, variances = (torch.stack([part[name][k] for part in parts]) for k in range(2))
        close(after[f"{name}.running_mean"], means.mean(0))
        close(after[f"{name}.running_var"], variances.mean(0) + means.var(0, correction=0))


def test_all_images_in_one_batch_are_exact() -> None:
    data = [(shifted(IMAGES), None)]
    equal(AdaBN(statistics="batch")(IMAGES.build(), IMAGES.expert().state, TASK, data), adapted(IMAGES, data))


@pytest.mark.parametrize("adapt", [AdaBN(), AdaBN(1), AdaBN(statistics="batch"), AdaBN(statistics="ema")])
def test_a_single_number_has_no_variance(adapt: AdaBN) -> None:
    with pytest.raises(InputError, match=r"of task middle .*one number has no variance"):
        adapt(IMAGES.build(), IMAGES.expert().state, TASK, [(IMAGES.images(1), None)])
    adapt(SEQUENCES.build(), SEQUENCES.expert().state, TASK, [(SEQUENCES.images(1), None)])


def test_the_layer_with_a_single_number_is_named() -> None:
    with pytest.raises(InputError, match="layer 10 gets a single number"):
        adapted(IMAGES, [(IMAGES.images(1), None)])


@pytest.mark.parametrize("adapt", [AdaBN(), AdaBN(2), AdaBN(statistics="batch"), AdaBN(statistics="ema")])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_statistics_that_are_not_finite_are_refused_with_their_cause(adapt: AdaBN, bad: float) -> None:
    state, x = IMAGES.expert().state, shifted(IMAGES)
    data = batches(x, None, 4)
    with pytest.raises(InputError, match=r"task middle .*since 1\.bias of the given model"):
        adapt(IMAGES.build(), state | {"1.bias": torch.full_like(state["1.bias"], bad)}, TASK, data)
    one = x.clone()
    one[5, 0, 0, 0] = bad
    with pytest.raises(InputError, match="an image holds such numbers"):
        adapt(IMAGES.build(), state, TASK, batches(one, None, 4))
    huge = state | {"1.weight": 1e200 * state["1.weight"]}
    with pytest.raises(InputError, match="numbers have become too large"):
        adapt(IMAGES.build(), huge, TASK, data)
    # A layer that no pass reaches is nobody's fault.
    net = nn.Sequential(Branch())
    idle = net.state_dict() | {"0.idle.running_mean": torch.full((3,), bad)}
    adapt(net, idle, TASK, batches(torch.randn(6, 3), None, 3))
    # Statistics that were not finite are replaced, and another task's column is read by nobody.
    before = state | {"0.running_var": torch.full((2,), bad).double(), "11.bias": state["11.bias"].clone()}
    before["11.bias"][0] = bad
    assert adapt(IMAGES.build(), before, TASK, data)["0.running_var"].isfinite().all()


class Branch(nn.Module):
    """Has a layer that a pass never reaches, and one that it calls by keyword."""

    def __init__(self, reached: bool = True) -> None:
        super().__init__()
        self.used, self.idle, self.reached = nn.BatchNorm1d(3), nn.BatchNorm1d(3), reached

    def forward(self, x: Tensor) -> Tensor:
        return self.used(input=x) if self.reached else x


@pytest.mark.parametrize("adapt", [AdaBN(), AdaBN(2), AdaBN(statistics="batch"), AdaBN(statistics="ema")])
def test_a_layer_that_no_pass_reaches_keeps_its_statistics(adapt: AdaBN) -> None:
    data = batches(3 * torch.randn(6, 3) + 5, None, 3)
    for reached in (True, False):
        case = Case("branch", (3,), lambda _, reached=reached: nn.Sequential(Branch(reached)).float())
        net = case.build().float()
        state = net.state_dict()
        if not reached:
            with pytest.raises(InputError, match="no pass of this Sequential reaches a BatchNorm layer"):
                adapt(net, state, TASK, data)
            continue
        after = adapt(net, state, TASK, data)
        for name in state:
            assert torch.equal(after[name], state[name]) == (not name.startswith("0.used.running")) or "batches" in name


class Moody(nn.Module):
    """Goes another way for other images."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.BatchNorm1d(3), nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) if x.mean() > 0 else self.b(x)


def test_exact_statistics_in_passes_are_refused_where_the_way_depends_on_the_images() -> None:
    net = nn.Sequential(Moody())
    x = torch.randn(6, 3).abs()
    with pytest.raises(InputError, match="depends on the images"):
        AdaBN(3)(net, net.state_dict(), TASK, [(torch.cat([x[:3], -x[3:]]), None)])


@pytest.mark.parametrize("adapt", [AdaBN(), AdaBN(2), AdaBN(statistics="batch"), AdaBN(statistics="ema")])
def test_a_compiled_network_takes_the_statistics_of_the_plain_one(adapt: AdaBN) -> None:
    plain, state, data = IMAGES.build(), IMAGES.expert().state, batches(shifted(IMAGES), None, 4)
    compiled = torch.compile(IMAGES.build(), backend="eager")
    after = adapt(compiled, {f"_orig_mod.{name}": tensor for name, tensor in state.items()}, TASK, data)
    for name, tensor in adapt(plain, state, TASK, data).items():
        close(after[f"_orig_mod.{name}"], tensor)
