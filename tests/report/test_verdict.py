"""The verdict, against plain arithmetic on rows made by hand: which rows are compared, and what is said of them."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import pandas as pd
import pytest

from dua_lightning.report import facts, records, tables, verdict
from dua_lightning.report.document import Answer
from dua_lightning.report.facts import Facts, TaskFacts
from dua_lightning.report.records import CostRecord, MergeRecord, Record, ReleaseRecord
from dua_lightning.report.reduce import reduce

NOISE = (0.3, -0.2, 0.4, -0.5)
"""Points by which users differ where a row gains."""
KINDS = {
    "MAS-IMM": ("imm", "mas", "none", "server", "last", "nothing"),
    "MAS-IMM, server statistics": ("imm", "mas", "none", "server", "server", "nothing"),
    "Joint": ("joint", "none", "none", "none", "none", "nothing"),
    "MAS-IMM + AdaBN": ("imm", "mas", "adabn", "server", "last", "images"),
    "MAS-RACL": ("racl", "mas", "none", "user", "last", "images"),
    "MAS-RACL + AdaBN": ("racl", "mas", "adabn", "user", "last", "images"),
    "MAS-IMM + AdaBN of 5 images": ("imm", "mas", "adabn_few", "server", "last", "images"),
    "MAS-IMM + AdaBN of 20 images": ("imm", "mas", "adabn_few", "server", "last", "images"),
    "MAS-IMM + AdaBN-S": ("imm", "mas", "adabn_s", "server", "last", "labels"),
    "MAS-IMM + Tent": ("imm", "mas", "tent", "server", "last", "images"),
    "MAS-IMM, server statistics + Tent": ("imm", "mas", "tent", "server", "server", "images"),
    "MAS-IMM, mean merge + AdaBN": ("imm", "none", "adabn", "none", "last", "images"),
    "MAS-IMM + Tent, lr=0.1": ("imm", "mas", "tent", "server", "last", "images"),
    "MAS-IMM + TENT (mean statistics, lr 0.1, epochs 1)": ("imm", "mas", "tent_with", "server", "last", "images"),
    "mean-IMM, TIES merge + AdaBN": ("mean_imm", "none", "adabn", "none", "last", "images"),
    "mean-IMM + AdaBN": ("mean_imm", "none", "adabn", "none", "last", "images"),
    "noise-MAS-RACL + AdaBN": ("racl", "noise", "adabn", "user", "last", "images"),
    "MAS-RACL, another user's priors + AdaBN": ("racl", "mas", "adabn", "other", "last", "others"),
    "MAS-RACL, oracle's priors + AdaBN": ("racl", "mas", "adabn", "oracle", "last", "oracle"),
    "Task Experts + AdaBN": ("task_experts", "none", "adabn", "none", "none", "images"),
    "Task Experts": ("task_experts", "none", "finetune", "none", "none", "labels"),
    "MAS-IMM + AdaBN (released)": ("imm", "mas", "adabn_released", "server", "last", "images"),
}
"""Method, importance, adaptation, who measures the prior, statistics, and what is used of a user's, by label."""
NO_COSTS = records.table(Path("absent.csv"), CostRecord)
FACTS = Facts((TaskFacts("Küche", ("fork", "<b>")),), 4, (3, 8, 8), 2**21, True)


def draws(
    means: Mapping[str, float],
    noise: Mapping[str, Sequence[float]] | None = None,
    users: int = 4,
    seeds: int = 1,
    iterations: int = 1,
) -> pd.DataFrame:
    """One task; each user of a row has the row's mean and the user's own noise."""
    found = []
    for label, user, seed, iteration in product(means, range(users), range(1, seeds + 1), range(1, iterations + 1)):
        method, importance, adapt, *rest = KINDS[label]
        own = (noise or {}).get(label, (0.0,) * users)[user]
        key = ("photos", "vgg", method, importance, adapt, label, "paper", *rest, f"user {user}", iteration, seed)
        found.append(Record(*key, 1, 1, means[label] + own + 3.0 * user))
    return reduce([pd.DataFrame(found)]).draws


def answers(frame: pd.DataFrame, **further: object) -> dict[str, Answer]:
    given = {"facts": FACTS, "given": ["+experiment=photos", "seed=1"], "folder": Path("out/a b"), **further}
    return {answer.question.split()[0]: answer for answer in verdict.verdict(frame, NO_COSTS, **given)}  # type: ignore[arg-type]


def test_the_gain_is_over_the_best_of_the_server_and_the_interval_over_users() -> None:
    means = {"MAS-IMM": 40.0, "MAS-IMM, server statistics": 55.0, "Joint": 60.0, "MAS-IMM + AdaBN": 64.0}
    found = answers(draws({**means, "MAS-RACL + AdaBN": 80.0}, {"MAS-IMM + AdaBN": NOISE}))
    half = 3.182446 * statistics.stdev(NOISE) / math.sqrt(4)
    own = "Yes: MAS-RACL + AdaBN minus MAS-IMM + AdaBN is +16.0 points (95 % interval +15.3 to +16.7, 4 users)."
    assert found["Does"].text == own
    first, *_ = verdict.verdict(draws(means, {"MAS-IMM + AdaBN": NOISE}), NO_COSTS)
    assert first.text == (
        "Yes: MAS-IMM + AdaBN is right on 68.5 % of the images, and Joint, the best row without users' data, on "
        f"64.5 %: +4.0 points (95 % interval {4 - half:+.1f} to {4 + half:+.1f}, 4 users)."
    )
    # The merge as it is has wrong statistics, and they are no user's merit.
    statistics_alone = (
        "AdaBN betters MAS-IMM by +24.0 points. The server's statistics alone, statistics=server, would make it +15.0"
    )
    assert statistics_alone in found["Is"].text


@pytest.mark.parametrize(
    ("gain", "noise", "word"),
    [
        (4.0, NOISE, "Yes: "),
        (-4.0, NOISE, "No, it harms: "),
        (0.1, NOISE, "Hardly: "),
        (1.0, (9.0, -9.0, 4.0, -4.0), "Not enough to tell: "),
    ],
)
def test_the_first_word_is_the_intervals(gain: float, noise: Sequence[float], word: str) -> None:
    frame = draws({"Joint": 50.0, "MAS-IMM + AdaBN": 50.0 + gain}, {"MAS-IMM + AdaBN": noise})
    first, *_ = verdict.verdict(frame, NO_COSTS)
    assert first.text.startswith(word)


def test_what_would_decide_is_from_the_standard_deviation() -> None:
    noise = (9.0, -9.0, 4.0, -4.0)
    frame = draws({"Joint": 50.0, "MAS-IMM + AdaBN": 52.0}, {"MAS-IMM + AdaBN": noise})
    texts = [answer.text for answer in verdict.verdict(frame, NO_COSTS)]
    # By a table of Student's t: 2.000 for 60 degrees of freedom, with standard deviation 8.04 and mean 2.
    assert texts[2].startswith("Not enough to tell: about 65 users like these would decide.")
    two = draws({"Joint": 50.0, "MAS-IMM + AdaBN": 60.0}, users=2)
    assert "needs at least 3 of them" in verdict.verdict(two, NO_COSTS)[2].text


def test_who_is_worse_off_is_named_and_told_from_noise() -> None:
    frame = draws({"Joint": 50.0, "MAS-IMM + AdaBN": 51.0}, {"MAS-IMM + AdaBN": (-3.0, 0.0, 1.0, -1.5)})
    _, count, _, worse, *_ = verdict.verdict(frame, NO_COSTS)
    assert count.text.startswith("2 of 4 are served better, 2 worse; by the sign alone")
    assert worse.text == "user 0 (-2.0 points) and user 3 (-0.5 points)."
    again = draws({"Joint": 50.0, "MAS-IMM + AdaBN": 51.0}, {"MAS-IMM + AdaBN": (-3.0, 0.0, 1.0, -1.5)}, seeds=3)
    noisy = again["average_accuracy"] + (again["adapt"] == "adabn") * (again["seed"] - 2) * (again["user"] == "user 3")
    _, count, sure, worse, *_ = verdict.verdict(again.assign(average_accuracy=noisy), NO_COSTS)
    assert "beyond the user's own noise (95 % interval each), 2 better and 1 worse" in count.text
    assert "From seed to seed the mean is -0.1 to +0.4 points." in sure.text


@pytest.mark.parametrize(
    ("five", "twenty", "text"),
    [
        (-0.2, -0.1, "5 images of each task are enough: -0.2 points against all"),
        (-5.0, -0.1, "20 images of each task are enough: -0.1 points against all"),
        (-9.0, -5.0, "More than 20 of each task: with so many, -5.0 points against all"),
        (-9.0, -1.2, "Not enough to tell: with 5 of each task, -9.0 points against all"),
    ],
)
def test_the_fewest_images_that_lose_less_than_a_point(five: float, twenty: float, text: str) -> None:
    rows = {"Joint": 50.0, "MAS-IMM + AdaBN": 60.0}
    few = {"MAS-IMM + AdaBN of 20 images": 60.0 + twenty, "MAS-IMM + AdaBN of 5 images": 60.0 + five}
    frame = draws({**rows, **few}, dict.fromkeys(few, NOISE))
    (found,) = [a.text for a in verdict.verdict(frame, NO_COSTS) if a.question.startswith("How many")]
    assert found.startswith(text)
    assert verdict.few(frame)["images"].tolist() == [5, 20, math.inf]
    assert verdict.few(draws(rows)).empty


def test_rows_that_are_missing_are_asked_for_by_a_command_that_makes_them() -> None:
    found = answers(draws({"Joint": 50.0, "MAS-IMM": 40.0}))
    assert found["Does"].text == "Not asked: no row uses a user's images without labels."
    assert found["Does"].commands == ("dua +experiment=photos seed=1 method=verdict",)
    # Without batch normalisation no row of that method can be computed.
    plain = answers(draws({"Joint": 50.0, "MAS-RACL": 40.0}), facts=replace(FACTS, batch_norm=False))
    assert not any("method=verdict" in command for answer in plain.values() for command in answer.commands)
    assert verdict.verdict(draws({"Joint": 50.0}), NO_COSTS) == ()


def test_a_released_prior_has_the_size_that_was_sent(tmp_path: Path) -> None:
    one = {"data": "digits", "model": "mlp", "adapt": "none", "user": "ann", "iteration": 1, "seed": 1, "task": "0-1"}
    sent = {"release": "bf16", "images": 9, "plain": 4096, "sent": 2048, "epsilon": math.nan, "delta": math.nan}
    records.write([ReleaseRecord(**one, label="MAS-RACL", **sent)], tmp_path / "releases.csv")
    frame = draws({"MAS-IMM": 40.0, "MAS-RACL": 60.0})
    for folder, size in (
        (tmp_path, "2.0 KiB for each task, 4.0 KiB before its release"),
        (None, "2.0 MiB for each task"),
    ):
        told = {answer.question: answer.text for answer in verdict.verdict(frame, NO_COSTS, FACTS, folder=folder)}
        expected = f"The device sends the server a prior of {size}; measuring it is not timed."
        assert told["What does it cost on the device?"] == expected
    assert records.table(tmp_path / "nothing.csv", ReleaseRecord).empty


@pytest.mark.parametrize(
    ("where", "up", "words"),
    [
        ("device", 0, "It sends nothing: the device merges by a prior of its own; measuring it is not timed."),
        ("encrypted", 2048, "The device sends the server 2.0 KiB for all tasks, encrypted; measuring is not timed."),
        ("server", 2048, "The device sends the server a prior of 2.0 MiB for each task; measuring it is not timed."),
    ],
)
def test_what_a_device_sends_is_what_its_merge_takes(where: str, up: int, words: str, tmp_path: Path) -> None:
    whose = ("digits", "mlp", "none", "MAS-RACL", "ann", 1, 1)
    records.write([MergeRecord(*whose, where, up, 5, 0.5, 0.5, math.nan)], tmp_path / "merges.csv")
    frame = draws({"MAS-IMM": 40.0, "MAS-RACL": 60.0})
    told = {answer.question: answer.text for answer in verdict.verdict(frame, NO_COSTS, FACTS, folder=tmp_path)}
    assert told["What does it cost on the device?"] == words


def test_released_rows_labels_and_cost_have_their_say_or_none() -> None:
    means = {"MAS-IMM": 40.0, "MAS-IMM + AdaBN (released)": 99.0, "MAS-IMM + AdaBN": 60.0, "MAS-IMM + AdaBN-S": 63.0}
    frame = draws(means, {"MAS-IMM + AdaBN-S": NOISE})
    whose = ("photos", "vgg", "adabn", "MAS-IMM + AdaBN")
    costs = pd.DataFrame(
        [CostRecord(*whose, f"user {u}", 1, 1, "Küche", "exact", 0, 3072, 0.25, math.nan) for u in (0, 1)]
    )
    told = {answer.question: answer.text for answer in verdict.verdict(frame, costs, FACTS)}
    assert not any("released" in text for text in told.values())
    labels = "MAS-IMM + AdaBN-S, which needs them, minus MAS-IMM + AdaBN is +3.0 points"
    assert told["What would the user's labels add?"].startswith(labels)
    assert told["What does it cost on the device?"] == (
        "For each task MAS-IMM + AdaBN takes 0.25 s on the machine of this run, trains no parameters, and keeps "
        "3.0 KiB beside the server's model. It sends nothing."
    )
    assert "The server's best is not among the rows" in told["Does personalization help here?"]


def test_the_next_commands_go_on_from_here() -> None:
    *_, last = answers(draws({"Joint": 50.0, "MAS-IMM + AdaBN": 60.0}, {"MAS-IMM + AdaBN": NOISE})).values()
    assert last.commands == (
        "dua +experiment=photos 'seed=[1,2,3]'",
        "dua report 'out/a b'",
        "dua export 'out/a b' --row 'MAS-IMM + AdaBN'",
    )


def test_the_terminal_breaks_sentences_and_no_command() -> None:
    command = "dua " + 10 * "data.name=x "
    text = tables.answered([Answer("Why?", "Since 95 % " * 30, (command,))], 80)
    assert max(len(line) for line in text.split("\n")[:-1]) <= 80
    assert not any(line.startswith("  %") for line in text.split("\n"))
    assert text.split("\n")[-1] == f"    {command}"


def test_facts_survive_their_file_and_name_the_tasks_of_runs_that_agree(tmp_path: Path) -> None:
    assert facts.read(tmp_path) is None
    facts.write(FACTS, tmp_path)
    assert facts.read(tmp_path) == FACTS
    more = replace(FACTS, tasks=(*FACTS.tasks, TaskFacts("Bad", ("tub",))))
    assert facts.task_names([FACTS, more]) == ("Küche", "Bad")
    assert facts.task_names([FACTS, replace(FACTS, tasks=more.tasks[1:])]) == ()
    assert facts.task_names([FACTS, None]) == ()


def test_the_releases_behaviour_has_no_verdict() -> None:
    frame = draws({"Joint": 50.0, "MAS-IMM + AdaBN": 60.0}).assign(fidelity="released")
    assert verdict.verdict(frame, NO_COSTS) == ()
    assert verdict.few(frame).empty


def test_rows_by_another_users_priors_or_the_scored_images_stand_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "other", ("racl", "mas", "adabn", "other", "last", "others"))
    monkeypatch.setitem(KINDS, "oracle", ("racl", "mas", "none", "oracle", "server", "oracle"))
    means = {"MAS-IMM": 40.0, "MAS-IMM + AdaBN": 64.0, "MAS-RACL + AdaBN": 65.0}
    assert answers(draws({**means, "other": 90.0, "oracle": 99.0})) == answers(draws(means))
