"""The dashboard in W&B, against the schema of `wandb_workspaces` and against what a run logs."""

import json
import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from dua_lightning.errors import InputError
from dua_lightning.report import dashboard, logged
from tests.helpers.cli import TINY
from tests.helpers.process import spawn
from tests.helpers.wandb_file import records

RUNS = {
    "one row": ("method=racl", "adapt=finetune", "adapt.epochs=1"),
    "several rows": ("method=all", "method.rows=[{method: racl}, {method: imm}]", "importance=mas", "seed=[1,2]"),
}


@pytest.mark.parametrize("project", ["", "x", "a/b/c", "/b", "a/", "a b/c", "a/b c", "a/b:c", "http://a/b"])
def test_words_that_name_no_project_are_one_line(project: str) -> None:
    with pytest.raises(InputError, match="give ENTITY/PROJECT") as refused:
        dashboard.build(project, "x")
    assert repr(project) in str(refused.value)


@pytest.mark.parametrize("package", ["wandb", "wandb_workspaces"])
def test_a_package_that_is_missing_is_one_line_with_what_installs_it(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"{package}.*pip install 'dua_lightning\[wandb\]'"):
        dashboard.build("a/b", "x")


def built(name: str = "mine") -> dict[str, Any]:
    pytest.importorskip("wandb_workspaces")
    found: dict[str, Any] = json.loads(dashboard.build("a/b.c-d", name).spec())
    return found


def test_workspace_and_report_are_those_of_the_packages_own_schema() -> None:
    found = built()
    from wandb_workspaces.reports.v2 import Report
    from wandb_workspaces.reports.v2 import internal as of_reports
    from wandb_workspaces.workspaces import Workspace
    from wandb_workspaces.workspaces import internal as of_workspaces

    view = of_workspaces.View.model_validate(found["workspace"])
    assert view.model_dump(mode="json", by_alias=True, exclude_none=True) == found["workspace"]
    workspace = Workspace._from_model(view)
    assert (workspace.entity, workspace.project, workspace.name) == ("a", "b.c-d", "mine")
    titles = [section.name for section in workspace.sections]
    assert [group.name for group in workspace.runset_settings.groupby] == ["Group", "JobType"]

    model = of_reports.ReportViewspec.model_validate(found["report"])
    report = Report._from_model(model)
    assert (report.entity, report.project, report.title) == ("a", "b.c-d", "mine")
    assert [type(block).__name__ for block in report.blocks] == ["P", *["H2", "P", "PanelGrid"] * len(titles)]
    assert [block.text for block in report.blocks[1::3]] == titles
    grids = report.blocks[3::3]
    for section, grid in zip(workspace.sections, grids, strict=True):
        kinds = [type(panel).__name__ for panel in section.panels]
        assert kinds == [type(panel).__name__ for panel in grid.panels]
        assert set(kinds) <= {"BarPlot", "LinePlot", "WeavePanelSummaryTable"}


def panels(node: Any) -> Iterator[dict[str, Any]]:
    """The panels anywhere in a specification."""
    if isinstance(node, dict) and "viewType" in node:
        yield node
    elif isinstance(node, dict | list):
        for item in node.values() if isinstance(node, dict) else node:
            yield from panels(item)


def test_panels_of_the_report_do_not_lie_over_each_other() -> None:
    for block in built()["report"]["spec"]["blocks"]:
        places = [panel["layout"] for panel in panels(block)]
        cells = [
            (x, y)
            for at in places
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        ]
        assert len(set(cells)) == len(cells)
        assert all(0 <= x < 24 for x, _ in cells)


def test_curves_and_bars_are_the_mean_of_a_groups_runs_with_the_least_and_the_greatest() -> None:
    found = built()
    plots = [panel for panel in panels(found) if panel["viewType"] != "Weave"]
    assert len(plots) == 12
    assert {(plot["config"]["groupAgg"], plot["config"]["groupArea"]) for plot in plots} == {("mean", "minmax")}
    section = found["workspace"]["spec"]["section"]
    assert section["settings"]["useRunsTableGroupingInPanels"], "panels show groups and not runs"
    grids = [block["metadata"] for block in found["report"]["spec"]["blocks"] if "metadata" in block]
    sets = [*section["runSets"], *(runs for grid in grids for runs in grid["runSets"])]
    by_row = [{"section": "run", "name": "group"}, {"section": "run", "name": "jobType"}]
    assert [runs["grouping"] for runs in sets] == [by_row] * 7
    assert not any("project" in runs for runs in sets), "they are the project's own"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[set[str], set[str]]]:
    """The names that real small runs log: those of the history, and those of the summary."""
    found = {}
    for name, words in RUNS.items():
        folder = tmp_path_factory.mktemp("run")
        places = (f"paths.output_dir={folder / 'out'}", f"paths.store_dir={folder / 'store'}")
        done = spawn(*TINY, *words, "logger=wandb", *places, cwd=folder)
        assert done.status == 0, done.err
        (path,) = (folder / "out" / "wandb").glob("offline-run-*/run-*.wandb")
        kept = records(path)
        history = [item for r in kept if r.WhichOneof("record_type") == "history" for item in r.history.item]
        summary = [item for r in kept if r.WhichOneof("record_type") == "summary" for item in r.summary.update]
        # A table is an object with a path, and more.
        names = [{item.key or "/".join(item.nested_key) for item in items} for items in (history, summary)]
        found[name] = (names[0], names[1])
    return found


@pytest.mark.slow
def test_every_metric_of_a_panel_is_one_that_runs_log(runs: dict[str, tuple[set[str], set[str]]]) -> None:
    seen = set()
    for panel in panels(built()):
        config = panel["config"]
        if panel["viewType"] == "Run History Line Plot":
            for name, (history, _) in runs.items():
                assert config["xAxis"] in history, name
                assert any(re.fullmatch(config["metricRegex"], key) for key in history), (name, config)
            assert {bool(re.search(config["metricRegex"], key)) for key in runs["one row"][0]} == {True, False}
        elif panel["viewType"] == "Bar Chart":
            assert set(config["metrics"]) <= runs["one row"][1]
        else:
            key = config["panel2Config"]["exp"]["fromOp"]["inputs"]["key"]["val"]
            seen.add(key)
            assert any(f"{key}/path" in history for history, _ in runs.values()), key
    assert seen == {logged.ROWS, logged.USERS, logged.MATRIX, logged.LEDGER, logged.COSTS}


def test_no_name_has_the_seed_where_a_run_has_one(runs: dict[str, tuple[set[str], set[str]]]) -> None:
    assert not any("seed" in name for name in runs["one row"][0])
    assert {"seed_1/L2-transfer/0-1/val_accuracy", "seed_2/L2-transfer/0-1/val_accuracy"} <= runs["several rows"][0]


def test_a_name_that_wandb_does_not_take_is_one_line() -> None:
    pytest.importorskip("wandb_workspaces")
    for name in ("x" * 129, "a \N{ROCKET}"):
        with pytest.raises(InputError, match="give another --name") as refused:
            dashboard.build("a/b", name)
        assert "\n" not in str(refused.value)


class Service:
    """A stand-in for W&B's server: it keeps the variables of every request."""

    app_url = "http://localhost"

    def __init__(self) -> None:
        self.kept: list[dict[str, Any]] = []

    def execute_graphql(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        assert "upsertView" in query
        self.kept.append(variables)
        view = {"id": f"id{len(self.kept)}", "name": variables["name"], "spec": variables["spec"]}
        return {"upsertView": {"view": view}}


def test_both_are_sent_to_the_project_and_their_addresses_given(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb_workspaces")
    import wandb

    service, created = Service(), []

    class Api:
        def __init__(self, timeout: int = 20) -> None:
            self._service_api = service

        def projects(self, entity: str) -> list[Any]:
            return []

        def create_project(self, name: str, entity: str) -> None:
            assert not service.kept, "the project is there before anything is in it"
            created.append(f"{entity}/{name}")

    monkeypatch.setattr(wandb, "Api", Api)
    made = dashboard.build("a/b", "mine")
    spec = json.loads(made.spec())
    addresses = made.save()
    assert created == ["a/b"]
    assert {sent["type"]: json.loads(sent["spec"]) for sent in service.kept} == {
        "runs": spec["report"]["spec"],
        "project-view": spec["workspace"]["spec"],
    }
    assert all((sent["entityName"], sent["projectName"]) == ("a", "b") for sent in service.kept)
    assert [address.partition("?")[0] for address in addresses] == [
        "http://localhost/a/b",
        "http://localhost/a/b/reports/mine--id1",
    ]
