"""Every section of a report on a hand-made run."""

from dataclasses import replace
from pathlib import Path

import pytest

from dua_lightning.report import facts, figures, runs, sections
from dua_lightning.report.characters import filename
from dua_lightning.report.document import Commands, Document, Picture, Table
from dua_lightning.report.facts import Facts, TaskFacts
from tests.report import folders
from tests.report.test_tables import made


def of(*paths: Path) -> Document:
    return sections.document(runs.study(paths), paths[0] / "figures")


def tables(document: Document) -> dict[str, Table]:
    return {part.name: part for section in document.sections for part in section.parts if isinstance(part, Table)}


def pictures(document: Document) -> list[Picture]:
    return [part for section in document.sections for part in section.parts if isinstance(part, Picture)]


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Document:
    return of(folders.run(tmp_path_factory.mktemp("whole")))


def test_the_lead_says_what_was_run(document: Document) -> None:
    assert document.title == "MAS-RACL, MAS-IMM and Joint on digits"
    assert document.lead == (
        "3 rows on digits with mlp: 2 users, 2 draws of each, 3 tasks, seeds 1, 2 and 3. "
        "From 1 run by dua_lightning 0.1.0, commit abc, torch 2.11, on Linux."
    )


def test_every_section_is_there_and_says_of_what_its_numbers_are(document: Document) -> None:
    assert [section.title for section in document.sections] == [
        "The verdict",
        "The ledger of digits with mlp",
        "Accuracy and forgetting",
        "Paired differences",
        "Users",
        "What is kept while tasks are learnt",
        "Cost",
        "Privacy",
        "Settings",
        "How to run each row again",
    ]
    found = tables(document)
    assert list(found) == [
        *(
            "ledger",
            "rows",
            "differences",
            "extremes",
            "users",
            "by_user",
            "training",
            "adaptation",
            "privacy",
            "settings",
        )
    ]
    assert "interval over seeds, users and iterations" in found["rows"].note
    assert (
        "interval over seeds, p of the t test over them, corrected by Holm for all pairs (3)"
        in found["differences"].note
    )
    assert all(table.note for table in found.values())


def test_every_figure_is_an_svg_with_its_title(document: Document) -> None:
    names = [picture.path.stem for picture in pictures(document)]
    assert names == ["ledger", "accuracy", "differences", "users", "matrices", "forgetting", "training"]
    for picture in pictures(document):
        assert picture.title
        assert "<svg" in picture.path.read_text()[:2000]


def test_epochs_are_whole_numbers(tmp_path: Path) -> None:
    epochs = runs.study([folders.run(tmp_path / "run")]).curves
    curves = figures.training_curves(epochs[epochs["epoch"] < 3], tmp_path / "training.svg").read_text()
    # Text is drawn as outlines, below what it says.
    assert "<!-- 2 -->" in curves
    assert "<!-- 1.50 -->" not in curves


def test_the_tables_hold_the_run(document: Document) -> None:
    found = tables(document)
    assert list(found["rows"].frame["row"]) == ["MAS-RACL", "MAS-IMM", "Joint"]
    largest = found["differences"].frame["difference"].abs()
    assert list(largest) == sorted(largest, reverse=True)
    assert found["adaptation"].frame.loc[0, "trained parameters"] == 1000
    settings = dict(found["settings"].frame.itertuples(index=False, name=None))
    assert (settings["optimizer.lr"], settings["seed"]) == ("0.001", "[1, 2, 3]")
    assert "method.rows" not in settings


def test_every_row_and_seed_has_a_command(document: Document) -> None:
    (commands,) = (part for part in document.sections[-1].parts if isinstance(part, Commands))
    assert commands.lines["method=imm importance=mas, seed 3"].endswith("method=imm importance=mas seed=3")


def test_a_single_row_user_and_seed_without_costs(tmp_path: Path) -> None:
    one = [r for r in folders.of("joint", 1) if r.user == "a" and r.iteration == 1]
    folder = folders.run(tmp_path / "run", one, {"seed": 1, "method": {"name": "joint"}})
    for name in ("costs.csv", "trainings.csv", "environment.json"):
        (folder / name).write_text("{}") if name.endswith("json") else (folder / name).unlink()
    found = of(folder)
    titles = [section.title for section in found.sections]
    assert "Paired differences" not in titles
    assert "Cost" not in titles
    assert "no interval" in tables(found)["rows"].note
    assert "seed 1. From 1 run" in found.lead


def test_several_benchmarks_have_figures_of_their_own(tmp_path: Path) -> None:
    other = [replace(r, data="num/bers", on=r.on, accuracy=r.accuracy / 2) for r in made() if r.on < 3 and r.after < 3]
    a, b = folders.run(tmp_path / "a"), folders.run(tmp_path / "b", other, {"data": {"name": "num/bers"}})
    found = of(a, b)
    names = {picture.path.name for picture in pictures(found)}
    second = filename("num/bers")
    assert {"accuracy-digits.svg", f"accuracy-{second}.svg", "users-digits.svg", f"matrices-{second}.svg"} <= names
    rows = tables(found)["rows"].frame
    assert "num/bers / MAS-RACL" in set(rows["row"])
    assert rows["accuracy"].notna().all(), "benchmarks with fewer tasks have their own number"
    assert set(tables(found)[f"differences-{second}"].frame["first"]) == {"MAS-RACL"}
    assert set(tables(found)["training"].frame["experts"]) == {"L2-transfer, data=digits", "L2-transfer, data=num/bers"}


def test_tasks_have_the_names_that_all_runs_give_them(tmp_path: Path) -> None:
    tasks = tuple(TaskFacts(name, (f"{name} a", f"{name} <b>")) for name in ("x", "y", "z"))
    first, second = (folders.run(tmp_path / name) for name in "ab")
    facts.write(Facts(tasks, 2, (3, 8, 8), 4, True), first)
    found = of(first)
    assert found.sections[0].title == "The verdict"
    assert tables(found)["tasks"].frame["task"].tolist() == ["x", "y", "z"]
    assert tables(found)["tasks"].frame["categories"].tolist()[0] == "x a, x <b>"
    assert any("accuracy on task x" in picture.title for picture in pictures(found))
    # A run of an earlier version does not name them.
    assert any("accuracy on task 1" in picture.title for picture in pictures(of(first, second)))


def test_measured_stands_beside_published(tmp_path: Path) -> None:
    theirs = [replace(r, data="catprior", model="vgg11_bn") for r in folders.of("racl")]
    found = tables(of(folders.run(tmp_path / "run", theirs)))["published"].frame
    (line,) = found.to_dict("records")
    assert (line["row"], line["table"], line["published"]) == ("MAS-RACL", 4, 58.05)
    assert line["gap"] == pytest.approx(line["measured"] - 58.05)


def test_a_stand_in_is_called_one(tmp_path: Path) -> None:
    theirs = [replace(r, data="catprior", model="vgg11_bn") for r in folders.of("racl")]
    settings = {"data": {"name": "catprior", "images": {"name": "photos"}}}
    section = of(folders.run(tmp_path / "run", theirs, settings)).sections[1]
    assert "photos, a stand-in for the paper's images: not to be compared" in section.text


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    folder = folders.run(tmp_path / "run", folders.of("racl", 1))
    assert of(folder).lead.endswith(f"Missing: {folder}: seed 2; {folder}: seed 3.")


def test_many_users_are_drawn_and_named_where_they_matter(tmp_path: Path) -> None:
    many = [
        replace(r, user=f"u{n}", accuracy=min(100.0, r.accuracy / 2 + n))
        for n in range(40)
        for r in folders.of("racl", 1)
        if r.user == "a" and r.iteration == 1
    ]
    found = of(folders.run(tmp_path / "run", many, {"seed": 1}))
    assert tables(found)["extremes"].frame.loc[0, "worst user"] == "u0"
    assert len(tables(found)["users"].frame) == 40


def test_names_are_drawn_as_they_are(tmp_path: Path) -> None:
    odd = [replace(r, user={"a": "$x^$", "bcd": "<&>"}[r.user]) for r in folders.of("imm", label="IMM $\\frac$")]
    assert len(pictures(of(folders.run(tmp_path / "run", odd)))) == 5


@pytest.mark.slow
def test_the_same_run_draws_the_same_files(tmp_path: Path) -> None:
    folder = folders.run(tmp_path / "run")
    first = {picture.path.name: picture.path.read_bytes() for picture in pictures(of(folder))}
    assert {picture.path.name: picture.path.read_bytes() for picture in pictures(of(folder))} == first
