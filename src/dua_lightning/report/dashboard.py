"""The dashboard of a project in W&B: a workspace and a report that show what runs log; see `report.logged`.

Runs are grouped by experiment and row: a line is the mean of the row's runs, such as those of several seeds, and the
band around it goes from the least to the greatest.
"""

import json
import os
import re
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from dua_lightning.errors import InputError
from dua_lightning.report import logged
from dua_lightning.report.curves import ACCURACY, EPOCH, LOSS

PROJECT = re.compile(r"[\w.-]+/[^/\\#?%:\s]{1,128}")
"""The form of the words that name a project."""
GROUPS = ("Group", "JobType")
"""The attributes of a run that hold the experiment and the row; see `report.loggers`."""
COLUMNS = (
    *(f"summary:{merit}" for merit in logged.MERITS),
    *(f"config:{group}.value.name" for group in ("method", "importance", "adapt")),
    "config:seed.value",
)
"""The columns that the list of runs shows first."""
WIDTH, HEIGHT = 24, 8
"""The width of a report, and the height of a panel, in units of W&B's grid."""
PATIENCE = 10
"""Seconds until a server that does not answer is given up."""
SEEDS = {"groupby_aggfunc": "mean", "groupby_rangefunc": "minmax"}
"""The line and the band of a group of runs."""
INTRODUCTION = (
    "This report shows what runs of dua_lightning have logged. Runs are grouped by experiment and row: a line is the "
    "mean over the row's runs, one for each seed, and its band goes from the least to the greatest. A run of several "
    "rows has no bars; its rows are in the tables, and at the start of the names of its curves. Accuracy is in "
    "percent, forgetting in points."
)
"""The first paragraph of the report."""


@dataclass(frozen=True)
class Dashboard:
    """A workspace and a report, as objects of `wandb_workspaces` that have not been sent anywhere.

    Args:
        workspace: The `workspaces.Workspace`.
        report: The `reports.v2.Report`.
    """

    workspace: Any
    report: Any

    def spec(self) -> str:
        """Give both as JSON.

        Returns:
            An object with the fields `workspace` and `report`, each as W&B keeps it.
        """
        models = {"workspace": self.workspace._to_model(), "report": self.report._to_model()}
        dumps = {
            name: model.model_dump(mode="json", by_alias=True, exclude_none=True) for name, model in models.items()
        }
        return json.dumps(dumps, indent=2) + "\n"

    def save(self) -> tuple[str, str]:
        """Make both in W&B, anew each time.

        Returns:
            The addresses of the workspace and of the report.

        Raises:
            InputError: Nobody has logged in, or W&B does not take them.
        """
        import wandb

        try:
            # It refuses where nobody has logged in, or no server answers.
            wandb.Api(timeout=PATIENCE)
            # A report makes the project that it is in, and a workspace does not.
            self.report.save()
            self.workspace.save()
            return self.workspace.url, self.report.url
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(
                f"W&B did not take the dashboard ({reason}); log in by `wandb login` where there is a network, or "
                "write it to a file by --dry-run FILE"
            ) from error


def build(project: str, name: str) -> Dashboard:
    """Build the dashboard of a project; nothing is sent.

    Args:
        project: The project, as `ENTITY/PROJECT`.
        name: The name of the workspace, and the title of the report.

    Returns:
        The dashboard.

    Raises:
        InputError: There is no such project or name in W&B, or a package is missing.
    """
    if not PROJECT.fullmatch(project):
        raise InputError(
            f"{project!r} is no project of W&B; give ENTITY/PROJECT, the name of a user or team and that of a project"
        )
    # W&B says what it does on standard error otherwise, and asks for a key at a terminal.
    os.environ["WANDB_SILENT"] = "true"
    try:
        import wandb
        import wandb_workspaces.reports.v2 as reports
        from wandb_workspaces import workspaces
    except ImportError as error:
        raise InputError(
            f"a dashboard needs a package that is not there ({error}); pip install 'dua_lightning[wandb]'"
        ) from error
    # It reads that it is silent.
    wandb.setup()
    where = dict(zip(("entity", "project"), project.split("/"), strict=True))
    try:
        return Dashboard(_workspace(workspaces, reports, name, where), _report(reports, name, where))
    except ValueError as error:
        raise InputError(
            f"W&B takes no dashboard of the name {name!r} ({_first(error)}); give another --name"
        ) from error


def _first(error: ValueError) -> str:
    """The reason that pydantic has for the first wrong value."""
    found: Any = error
    return str(found.errors()[0]["msg"] if hasattr(found, "errors") else found)


def _workspace(workspaces: ModuleType, reports: ModuleType, name: str, where: dict[str, str]) -> Any:
    sections = [workspaces.Section(name=title, panels=panels, is_open=True) for title, _, panels in _sections(reports)]
    runs = workspaces.RunsetSettings(
        groupby=[workspaces.Metric(group) for group in GROUPS], pinned_columns=list(COLUMNS)
    )
    return workspaces.Workspace(name=name, sections=sections, runset_settings=runs, **where)


def _report(reports: ModuleType, name: str, where: dict[str, str]) -> Any:
    blocks: list[Any] = [reports.P(INTRODUCTION)]
    for title, text, panels in _sections(reports):
        # A run set that names no project is of the report's own.
        runs = reports.Runset(groupby=list(GROUPS), pinned_columns=list(COLUMNS))
        blocks += [reports.H2(title), reports.P(text), reports.PanelGrid(runsets=[runs], panels=panels)]
    return reports.Report(title=name, blocks=blocks, width="fluid", **where)


def _sections(reports: ModuleType) -> list[tuple[str, str, list[Any]]]:
    """The title, the text and the panels of each section; panels are of one workspace or report."""

    def half(kind: str, **given: Any) -> Any:
        return getattr(reports, kind)(layout=reports.Layout(w=WIDTH // 2, h=HEIGHT), **SEEDS, **given)

    def table(name: str) -> Any:
        return reports.WeavePanelSummaryTable(table_name=name, layout=reports.Layout(w=WIDTH, h=HEIGHT))

    # Names of rows, experts and tasks are not known here. W&B may want the whole of a name to match, or a part.
    return [
        (
            "Accuracy and forgetting",
            "These are the figures of merit after the last task, and the table of each run.",
            [*(half("BarPlot", title=merit, metrics=[merit]) for merit in logged.MERITS), table(logged.ROWS)],
        ),
        (
            "Accuracy as tasks are learnt",
            "The first panel shows the mean accuracy on the tasks learnt so far, the second one that on each task.",
            [
                *(
                    half("LinePlot", title=name, x=logged.LEARNT, metric_regex=f"^(.*/)?{name}{end}$")
                    for name, end in ((logged.SO_FAR, ""), (logged.ON, "/.*"))
                ),
                table(logged.MATRIX),
            ],
        ),
        (
            "Training",
            "These are the curves of the experts that were trained; those that were in the store have none.",
            [half("LinePlot", title=name, x=EPOCH, metric_regex=f"^.*/{name}$") for name in (ACCURACY, LOSS)],
        ),
        ("Users", "The table has the figures of merit of every user.", [table(logged.USERS)]),
        (
            "Ledger",
            "Each line says what a step adds over the best that the server does without users, in points.",
            [table(logged.LEDGER)],
        ),
        ("Costs", "Each line is what an adaptation of one task's state costs a device.", [table(logged.COSTS)]),
    ]
