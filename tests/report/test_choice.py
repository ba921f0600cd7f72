"""The choice on simulated users: by them alone, and how far it is from the best on the users who are scored."""

from dataclasses import asdict

import pandas as pd
import pytest

from dua_lightning.errors import InputError
from dua_lightning.report import choice
from dua_lightning.report.choice import Family
from tests.reference import statistics_loops
from tests.report.test_verdict import NOISE, draws

ONE, TWO, LONE = "MAS-IMM + AdaBN of 5 images", "MAS-IMM + AdaBN of 20 images", "MAS-IMM + AdaBN"


def test_the_server_chooses_the_best_on_simulated_users_in_each_family_of_several_rows() -> None:
    (family,) = choice.families(draws({ONE: 60.0, TWO: 58.0, LONE: 70.0}))
    assert (family.chosen, set(family.simulated)) == (ONE, {ONE, TWO})
    assert family.columns[-1] == "adabn_few"


@pytest.mark.parametrize("scored", [{ONE: 50.0, TWO: 55.0}, {ONE: 90.0, TWO: 5.0}])
def test_the_choice_does_not_see_the_scored_users(scored: dict[str, float]) -> None:
    choices = choice.families(draws({ONE: 60.0, TWO: 58.0}))
    before = [asdict(family) for family in choices]
    found = choice.compared(choices, draws(scored)).set_index("selection")
    assert [asdict(family) for family in choices] == before
    assert found.loc["server", "row"] == ONE
    assert found.loc["oracle", "row"] == max(scored, key=scored.__getitem__)


def test_the_gap_is_paired_and_over_users() -> None:
    choices = choice.families(draws({ONE: 60.0, TWO: 58.0}))
    found = choice.compared(choices, draws({ONE: 50.0, TWO: 55.0}, {TWO: NOISE}, seeds=2)).set_index("selection")
    assert found["among"].tolist() == [2, 2]
    assert found["accuracy"].tolist() == pytest.approx([54.5, 59.5])
    assert found["simulated"].tolist() == pytest.approx([64.5, 62.5])
    assert found.loc["server", "gap"] == pytest.approx(5.0)
    assert found.loc["server", "gap CI"] == pytest.approx(statistics_loops.half(NOISE), rel=1e-4)


def test_a_row_that_the_scored_users_lack_is_named() -> None:
    with pytest.raises(InputError, match="no row MAS-IMM \\+ AdaBN of 20 images"):
        choice.compared(choice.families(draws({ONE: 60.0, TWO: 58.0})), draws({ONE: 60.0}))
    far = draws({TWO: 70.0}).assign(seed=9)
    with pytest.raises(InputError, match="in common"):
        choice.compared(
            [Family(("vgg", "paper", *"abcde"), {ONE: 60.0, TWO: 58.0})], pd.concat([draws({ONE: 60.0}), far])
        )
