"""The privacy card of a run: what was sent, and what it was worth."""

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from dua_lightning.commands import privacy
from dua_lightning.errors import InputError
from dua_lightning.report import card, facts, records, runs, sections
from dua_lightning.report.document import Answers, Table
from dua_lightning.report.facts import Facts, TaskFacts
from dua_lightning.report.records import MergeRecord, Record, ReleaseRecord
from dua_lightning.store.files import write_text
from tests.report import folders
from tests.report.test_tables import made

ACCURACIES = {
    "mean-IMM": (50, 60, 70),
    "MAS-RACL": (52, 61, 75),
    "channel-MAS-RACL": (51, 61, 74),
    "noise": (52, 62, 74),
}
"""The accuracies of three users."""


def averaged(level: str) -> dict[str, Any]:
    return {"name": "averaged", "level": level, "of": {"name": "mas"}}


NODES = {
    "mean-IMM": {"name": "mas"},
    "MAS-RACL": {"name": "mas"},
    "channel-MAS-RACL": averaged("channel"),
    "noise": {"name": "noise", "of": {"name": "mas"}},
}


def of_rows() -> list[Record]:
    found = []
    for label, accuracies in ACCURACIES.items():
        own = label != "mean-IMM"
        for user, accuracy in enumerate(accuracies):
            found.append(
                Record(
                    data="digits",
                    model="mlp",
                    method="racl" if own else "mean_imm",
                    importance=NODES[label]["name"] if own else "none",
                    adapt="none",
                    label=label,
                    fidelity="paper",
                    prior="user" if own else "none",
                    statistics="last",
                    uses="images" if own else "nothing",
                    user=f"user {user}",
                    iteration=1,
                    seed=1,
                    after=1,
                    on=1,
                    accuracy=accuracy,
                )
            )
    return found


def run(folder: Path) -> Path:
    folders.run(folder, of_rows(), {"method": {"name": "several"}})
    tasks = (TaskFacts("0-1", ("0", "1")),)
    facts.write(Facts(tasks, 3, (1, 8, 8), 4000, False, tuple(ACCURACIES)), folder)
    rows = [{"importance": {"place": "importance", "node": node}} for node in NODES.values()]
    write_text(folder / card.SETTINGS, json.dumps([{"rows": rows}]))
    return folder


def lines(folder: Path) -> pd.DataFrame:
    return card.card(runs.study([folder])).set_index("row")


def test_a_line_for_each_row_that_sends_what_pictures_tell(tmp_path: Path) -> None:
    found = lines(run(tmp_path / "run"))
    assert list(found.index) == ["MAS-RACL", "channel-MAS-RACL"]
    assert list(found["level"]) == ["weight", "channel"]
    assert set(found["importance"]) == {"mas"}
    assert list(found["plain"]) == [4000, 4000]
    assert found["sent"]["MAS-RACL"] == 4000
    assert math.isnan(found["sent"]["channel-MAS-RACL"])


def test_differences_are_paired_by_user(tmp_path: Path) -> None:
    found = lines(run(tmp_path / "run"))
    assert found["gain"]["MAS-RACL"] == pytest.approx((2 + 1 + 5) / 3)
    # The t interval of 2, 1 and 5: 4.3027 times their standard deviation over the root of 3.
    assert found["gain CI"]["MAS-RACL"] == pytest.approx(4.302653 * (13 / 3) ** 0.5 / 3**0.5, rel=1e-6)
    assert found["over noise"]["MAS-RACL"] == pytest.approx(0, abs=1e-9)
    assert found["cost"]["channel-MAS-RACL"] == pytest.approx(2 / 3)
    assert math.isnan(found["cost"]["MAS-RACL"])


def test_a_run_of_an_earlier_version_has_a_card_too(tmp_path: Path) -> None:
    folder = run(tmp_path / "run")
    (folder / card.SETTINGS).unlink()
    (folder / facts.FILE).unlink()
    found = lines(folder)
    assert list(found["importance"]) == ["mas", "averaged"]
    assert found["plain"].isna().all()


def test_the_card_fits_a_terminal_and_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    folder = run(tmp_path / "run")
    assert privacy.main([str(folder), "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines()[:-1])) <= 80
    for words in ("Each user sends 4,000 bytes", "No mathematical guarantee", "which may be nothing", "privacy.csv"):
        assert words in " ".join(out.split())
    assert list(pd.read_csv(tmp_path / card.FILE)["row"]) == ["MAS-RACL", "channel-MAS-RACL"]


def test_a_report_has_the_card(tmp_path: Path) -> None:
    folder = run(tmp_path / "run")
    document = sections.document(runs.study([folder]), tmp_path / "figures")
    (section,) = [section for section in document.sections if section.title == "Privacy"]
    answers, table = section.parts
    assert isinstance(answers, Answers)
    assert [answer.question for answer in answers.answers] == ["MAS-RACL", "channel-MAS-RACL"]
    assert isinstance(table, Table)
    assert list(table.frame["guarantee"]) == ["none", "none"]


def test_what_an_attack_got_is_read_from_the_file(tmp_path: Path) -> None:
    folder = run(tmp_path / "run")
    frame = lines(folder).reset_index()
    frame.loc[frame["row"] == "channel-MAS-RACL", ["sent", "images", "users", "recovered", "control"]] = [
        16,
        5,
        3,
        40,
        1,
    ]
    frame.to_csv(folder / card.FILE, index=False)
    again = card.card(runs.study([folder]))
    assert list(again["sent"]) == [4000, 16]
    said = card.answers(again)[1].text
    assert "about 40 of 100 pictures" in said
    assert "3 simulated users of 5 pictures each; 1 of 100 for pictures that they never had" in said
    write_text(folder / card.FILE, "a,b\n1,2\n")
    with pytest.raises(InputError, match=r"privacy.csv cannot be read"):
        card.card(runs.study([folder]))


def test_nothing_was_sent_where_no_row_has_a_users_prior(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folders.run(tmp_path / "run", [record for record in made() if record.prior != "user"])
    assert privacy.main([str(folder)]) == 0
    assert capsys.readouterr().out == f"{card.NOBODY}\n"
    assert not (folder / card.FILE).exists()
    titles = [section.title for section in sections.document(runs.study([folder]), tmp_path).sections]
    assert "Privacy" not in titles


def test_the_command_makes_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("cryptography", reason="signatures are an extra")
    assert privacy.main(["--new-key", str(tmp_path / "ann")]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "ann"), str(tmp_path / "ann.pub")]


@pytest.mark.parametrize("arguments", [[], ["run", "--new-key", "ann"]])
def test_the_command_takes_a_run_or_a_key(arguments: list[str]) -> None:
    with pytest.raises(InputError, match="the folder of a run, or --new-key FILE"):
        privacy.main(arguments)


def test_what_a_release_sent_and_guarantees_is_the_weakest_of_its_lines(tmp_path: Path) -> None:
    folder = run(tmp_path / "run")
    own: dict[str, Any] = {
        "data": "digits",
        "model": "mlp",
        "adapt": "none",
        "label": "MAS-RACL",
        "iteration": 1,
        "seed": 1,
    }
    of_release: dict[str, Any] = {"release": "gaussian", "plain": 4000, "delta": 1e-5}
    sent = [
        ReleaseRecord(**own, user="user 0", task="0-1", images=40, sent=400, epsilon=1.0, **of_release),
        ReleaseRecord(**own, user="user 1", task="0-1", images=20, sent=400, epsilon=2.0, **of_release),
        ReleaseRecord(**own, user="user 2", task="0-1", images=0, sent=0, epsilon=math.nan, **of_release),
    ]
    records.write(sent, folder / "releases.csv")
    found = card.card(runs.study([folder]))
    assert (found["sent"][0], found["epsilon"][0], found["delta"][0]) == (400, 2, 1e-5)
    assert card.guarantee(found.to_dict("records")[0]) == "(2, 1e-05)"
    assert "epsilon 2 and delta 1e-05" in card.answers(found)[0].text
    assert card.guarantee({"epsilon": math.inf, "delta": 1e-5}) == "none"


def test_the_level_of_a_chain_is_that_of_its_steps(tmp_path: Path) -> None:
    folder = run(tmp_path / "run")
    rows = json.loads((folder / card.SETTINGS).read_text())[0]["rows"]
    steps = {"first": {"level": "layer"}, "second": {}}
    rows[1]["release"] = {"place": "release", "node": {"name": "chain", "label": "layer, then bf16", "steps": steps}}
    write_text(folder / card.SETTINGS, json.dumps([{"rows": rows}]))
    found = lines(folder)
    assert (found["level"]["MAS-RACL"], found["release"]["MAS-RACL"]) == ("layer", "layer, then bf16")


@pytest.mark.parametrize(
    ("where", "up", "words"),
    [
        (
            "device",
            0,
            "Nothing that is computed from a user's pictures is sent: the device merges by itself",
        ),
        ("encrypted", 9000, "Each user sends 9,000 bytes for each task, encrypted with a key that stays on the device"),
    ],
)
def test_a_row_that_is_merged_elsewhere_sends_nothing_that_can_be_read(
    where: str, up: int, words: str, tmp_path: Path
) -> None:
    folder = run(tmp_path / "run")
    rows = json.loads((folder / card.SETTINGS).read_text())[0]["rows"]
    rows[1]["where"] = where
    write_text(folder / card.SETTINGS, json.dumps([{"rows": rows}]))
    label = "MAS-RACL"
    whose = ("digits", "mlp", "none", label, "user 0", 1, 1)
    records.write([MergeRecord(*whose, where, up, 5000, 0.5, 0.25, math.nan)], folder / "merges.csv")
    study = runs.study([folder])
    found = card.card(study).set_index("row")
    assert found["sent"][label] == up
    assert found["attack"][label] == card.UNREADABLE[where]
    said = {answer.question: answer.text for answer in card.answers(found.reset_index())}
    assert words in said[label]
    assert "an attack" not in said[label].lower()
    (cost,) = [section for section in sections.document(study, tmp_path).sections if section.title == "Cost"]
    (table,) = [part for part in cost.parts if isinstance(part, Table) and part.name == "merging"]
    assert table.frame.to_dict("records") == [
        {
            "row": label,
            "merged on": where,
            "up (KiB)": up / 1024,
            "down (KiB)": 5000 / 1024,
            "device (s)": 0.5,
            "server (s)": 0.25,
        }
    ]
