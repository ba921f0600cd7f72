"""Titles say what the data say."""

import numpy as np
import pandas as pd
import pytest

from dua_lightning.report import headlines
from dua_lightning.report.reduce import reduce
from tests.report.test_tables import made

NAN = np.nan
KEEPS = np.array([[80.0, NAN, NAN], [80.0, 50.0, NAN], [60.0, 50.0, 90.0]])
GAINS = np.array([[80.0, NAN, NAN], [80.0, 50.0, NAN], [82.0, 50.0, 90.0]])
RISING = (("a", 1), ("b", 2))
JOINT = np.array([[NAN] * 3, [NAN] * 3, [90.0, 90.0, 90.0]])


@pytest.fixture
def found() -> pd.DataFrame:
    return reduce([pd.DataFrame(made())]).draws


def test_who_serves_best_and_who_is_served_best(found: pd.DataFrame) -> None:
    assert headlines.accuracy(found).startswith("Joint serves users best (")
    assert "MAS-IMM worst" in headlines.accuracy(found)
    assert headlines.accuracy(found[found["row"] == "Joint"]).startswith("Joint is right on ")
    assert headlines.accuracy(found.assign(average_accuracy=50.0)) == "The 3 rows serve users alike (50.0 %)"
    assert headlines.users(found).startswith("User a is served worst (")
    assert headlines.users(found[found["user"] == "a"]) == "How each method serves the one user, a"
    assert headlines.users(found.assign(average_accuracy=50.0)) == "The 2 users are served alike (50.0 %)"


def test_how_unequally_users_are_served(found: pd.DataFrame) -> None:
    one = found[(found["row"] == "Joint") & (found["user"] == "a")]
    many = pd.concat(
        one.assign(user=f"u{n}", row=row, average_accuracy=n / share) for n in range(101) for row, share in RISING
    )
    text = "Nine in ten users are within 45.0 points of accuracy under b, 90.0 under a"
    assert headlines.spread(many) == text
    alone = headlines.spread(many[many["row"] == "a"])
    assert alone == "Nine in ten users of a are within 90.0 points of accuracy"


def test_what_is_kept_and_lost() -> None:
    assert headlines.kept({"a": KEEPS, "b": GAINS}) == "Of the accuracy on earlier tasks b keeps 101 %, a 88 %"
    assert headlines.kept({"a": KEEPS, "j": JOINT}) == "a keeps 88 % of the accuracy that it had on earlier tasks"
    both = {"a": KEEPS, "b": KEEPS + 1e-3}
    assert headlines.kept(both) == "Every row keeps 88 % of the accuracy that it had on earlier tasks"
    assert headlines.kept({"j": JOINT}) == "Accuracy on each task after the last one"
    assert headlines.kept({"z": np.zeros((2, 2))}) == "Accuracy on each task after the last one"
    lost = "While other tasks are learnt, accuracy on task 1 falls by 20.0 points under a"
    assert headlines.lost({"a": KEEPS, "j": JOINT}) == lost
    assert headlines.lost({"a": KEEPS, "b": GAINS}) == f"{lost}, and rises by 2.0 points under b"
    assert headlines.lost({"a": KEEPS, "s": np.full((2, 2), 7.0)}) == f"{lost}, and stays under s"
    assert headlines.lost({"a": KEEPS}, "Küche") == lost.replace("task 1", "task Küche")
    for R in (JOINT, np.full((1, 1), 7.0)):
        assert headlines.lost({"j": R}) == "Accuracy on each task while others are learnt"


def test_which_differences_are_clear() -> None:
    pairs = pd.DataFrame(
        {"first": ["a", "a", "b"], "second": ["b", "c", "c"], "difference": [-3.0, 9.0, 1.0], "p": [0.01, 0.5, 0.01]}
    )
    text = headlines.differences(pairs.assign(**{"p (Holm)": [0.03, 0.5, 0.03]}))
    assert text == "2 of 3 differences are larger than chance explains: a minus b is -3.0 points"
    assert (
        headlines.differences(pairs.assign(**{"p (Holm)": 0.5}))
        == "No difference between rows is larger than chance explains"
    )
    assert "too few repetitions" in headlines.differences(pairs.assign(p=NAN, **{"p (Holm)": NAN}))
    alike = pairs.assign(difference=0.01, p=NAN, **{"p (Holm)": NAN})
    assert headlines.differences(alike) == "No difference between rows is as large as 0.05 points"


def test_how_long_experts_are_trained() -> None:
    epochs = pd.DataFrame({"seed": 1, "experts": "EWC", "task": ["a", "a", "b", "b"], "epoch": [1, 2, 1, 2]})
    assert headlines.training(epochs) == "Each expert is trained for 2 epochs"
    assert headlines.training(epochs[:3]).startswith("An expert is trained for 1 to 2 epochs")
