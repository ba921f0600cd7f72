"""Alpha-BN against its loop, its two ends, and a user whom it helps and one whom it must not harm."""

import pytest

from dua_lightning.adapt import AdaBN, AlphaBN
from dua_lightning.errors import InputError
from tests.adapt.test_adabn import CASES, IMAGES, N, loaded, shifted
from tests.adapt.users import EVEN, SKEWED, scores
from tests.helpers.nets import TASK, Case, batches, close, equal, untouched
from tests.reference.weighted_bn_loop import weighted_bn


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("adapt", "kept"), [(AlphaBN(4.5), 4.5 / (4.5 + N)), (AlphaBN(alpha=0.2), 0.8)])
def test_statistics_are_a_mixture_through_the_mixed_layers_below(case: Case, adapt: AlphaBN, kept: float) -> None:
    net, before, x = case.build(), case.expert().state, shifted(case)
    expected = dict(before)
    for name, (mean, var) in weighted_bn(loaded(case, before), x, [1.0] * N, kept).items():
        expected[f"{name}.running_mean"], expected[f"{name}.running_var"] = mean, var
    with untouched(net, before):
        close(adapt(net, before, TASK, batches(x, None, 3)), expected)
    chunks = AlphaBN(adapt.pseudo_count, adapt.alpha, images_at_once=3)(net, before, TASK, [(x, None)])
    close(
        {name: chunks[name] for name in expected if "running" in name},
        {n: t for n, t in expected.items() if "running" in n},
    )


@pytest.mark.parametrize("case", CASES)
def test_all_of_the_user_is_adabn_and_nothing_of_them_changes_nothing(case: Case) -> None:
    net, state, data = case.build(), case.expert().state, [(shifted(case), None)]
    for all_of_them in (AlphaBN(alpha=1), AlphaBN(0)):
        equal(all_of_them(net, state, TASK, data), AdaBN()(net, state, TASK, data))
    equal(AlphaBN(alpha=0)(net, state, TASK, data), state)


def test_labels_are_never_read() -> None:
    x = shifted(IMAGES)
    with_labels, without = (AlphaBN()(IMAGES.build(), IMAGES.expert().state, TASK, [(x, y)]) for y in (object(), None))
    equal(with_labels, without)


def test_one_image_has_a_variance_in_a_mixture_alone() -> None:
    net, state, one = IMAGES.build(), IMAGES.expert().state, [(shifted(IMAGES, 1), None)]
    assert AlphaBN().normalised_together([1]) == 2
    after = AlphaBN()(net, state, TASK, one)
    close(after["10.running_var"], state["10.running_var"] * 16 / 17)
    assert AlphaBN(alpha=1).normalised_together([1]) == 1
    with pytest.raises(InputError, match="one number has no variance"):
        AlphaBN(alpha=1)(net, state, TASK, one)


@pytest.mark.parametrize("setting", [{"pseudo_count": -1}, {"pseudo_count": float("nan")}, {"alpha": 1.1}])
def test_numbers_that_cannot_be_used_are_input_errors(setting: dict[str, float]) -> None:
    with pytest.raises(InputError, match="alpha-BN"):
        AlphaBN(**setting)


def test_it_helps_where_images_look_different_and_few_images_harm_less_than_adabn_does() -> None:
    before, after = scores(AlphaBN(), EVEN, shifted=True)
    assert after > before + 5
    _, alpha = scores(AlphaBN(), SKEWED, shifted=False, n=16)
    _, adabn = scores(AdaBN(), SKEWED, shifted=False, n=16)
    assert alpha > adabn + 3
    before, after = scores(AlphaBN(), EVEN, shifted=False)
    assert after > before - 1
