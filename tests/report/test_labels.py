"""One label for one row: a small run's tables, figures and files all call a row by the same name."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.text import Text

from dua_lightning.commands import compare, report
from dua_lightning.report import figures, ledger, logged, records, reduce, runs, tables
from dua_lightning.report.labels import adaptation
from dua_lightning.report.records import CostRecord
from dua_lightning.report.terminal import Terminal
from tests.helpers.cli import TINY
from tests.helpers.process import spawn
from tests.report import folders

LABELS = ["MAS-RACL", "MAS-IMM", "MAS-IMM + T3A (K=1)", "MAS-IMM + T3A (K=5)", "MAS-IMM + label shift"]
ROWS = (
    "method.rows=[{method: racl, importance: mas}, {method: imm, importance: mas}, "
    "{method: imm, importance: mas, adapt: t3a, adapt.filter_k: 1}, "
    "{method: imm, importance: mas, adapt: t3a, adapt.filter_k: 5}, "
    "{method: imm, importance: mas, adapt: label_shift}]"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run of rows that share a method, an importance, or the name of their adaptation."""
    place = tmp_path_factory.mktemp("labels")
    settings = (*TINY, "method=all", ROWS, "seed=[1,2]")
    done = spawn(*settings, f"paths.output_dir={place}/run", f"paths.store_dir={place}/store", cwd=place)
    assert done.status == 0, done.err
    return place / "run"


def texts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """All texts of each figure of a report, without the ends of lines."""
    drawn: list[str] = []
    original = figures.Figure.savefig

    def keep(self, *arguments, **named):
        drawn.append("\n".join(" ".join(text.get_text().split()) for text in self.findobj(Text)))
        return original(self, *arguments, **named)

    monkeypatch.setattr(figures.Figure, "savefig", keep)
    report.write(runs.study([folder]), folder / "report")
    yield from drawn


def test_every_output_has_the_same_labels(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = runs.study([folder])
    reduced = study.reduced
    console = Terminal(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(tables.table(reduced, "run"))
    console.print(compare.results_table(reduce.compared(reduced.draws, reduced.draws)))
    printed = console.export_text()
    found = {
        "records.csv": list(records.read(folder / "records.csv")["label"].unique()),
        "the commands": list(dict.fromkeys(name.rpartition(", seed ")[0] for name, _ in study.runs[0].commands()))[1:],
        "summary.json": [name for name in json.loads((folder / "summary.json").read_text()) if name != "verdict"],
        "the logger": list(dict.fromkeys(name.rpartition("/")[0] for name in logged.merits(reduced))),
        "the ledger": [row for row in LABELS if row in set(ledger.ledger(reduced.draws)["row"])],
    }
    drawn = list(texts(folder, monkeypatch))
    for name in ("rows", "extremes", "users"):
        frame = pd.read_csv(folder / "report" / "tables" / f"{name}.csv")
        found[f"{name}.csv"] = list(frame["row"].unique())
    pairs = pd.read_csv(folder / "report" / "tables" / "differences.csv")
    found["differences.csv"] = sorted({*pairs["first"], *pairs["second"]}, key=LABELS.index)
    assert found == dict.fromkeys(found, LABELS)
    for label in LABELS:
        assert re.findall(rf"│ {re.escape(label)} +│", printed), "the tables in the terminal"
        for form in ("report.html", "report.md"):
            assert label in (folder / "report" / form).read_text(), form
    # The accuracies, the users, the differences, the matrices and the forgetting; a ledger has names for its steps.
    assert sum(all(f"{label}\n" in f"{text}\n" for label in LABELS) for text in drawn) == 5


def test_costs_are_of_the_same_rows_and_a_line_is_one_adaptation(folder: Path) -> None:
    costs = records.table(folder / "costs.csv", CostRecord)
    assert list(costs["label"].unique()) == LABELS[2:]
    named = ["T3A (K=1)", "T3A (K=5)", "label shift"]
    assert list(map(adaptation, LABELS[2:])) == named
    assert list(reduce.cost_medians(costs)["adaptation"]) == named


def test_rows_that_runs_tell_apart_are_told_apart_in_their_costs_too(tmp_path: Path) -> None:
    for lr in (0.1, 0.2):
        folders.run(tmp_path / str(lr), folders.of("racl", accuracy=100 * lr), {"optimizer": {"lr": lr}})
    study = runs.study([tmp_path / "0.1", tmp_path / "0.2"])
    labels = ["MAS-RACL, lr=0.1", "MAS-RACL, lr=0.2"]
    assert list(study.reduced.draws["label"].unique()) == labels
    assert list(study.costs["label"].unique()) == labels
    assert list(reduce.adapting(study.reduced.draws, study.costs).index) == labels
