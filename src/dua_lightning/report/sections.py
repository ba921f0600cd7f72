"""The sections of a report: their tables, figures and sentences."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pandas as pd

from dua_lightning.report import figures, headlines, ledger, reduce, verdict
from dua_lightning.report.characters import filename
from dua_lightning.report.document import Answer, Answers, Commands, Document, Picture, Section, Table
from dua_lightning.report.published import compare, published
from dua_lightning.report.reduce import Reduced
from dua_lightning.report.runs import ROWS, Study, flat

FOLDED = 20
"""Longer tables of pairs are folded."""
ROWS_NAMED = 4
"""More rows than this are counted in the title, and not named."""
VALUES_NAMED = 6
"""More values than this of a setting are cut."""
PAPERS_IMAGES = "mit_indoor"
"""The pictures of the paper's scene benchmarks."""


def document(study: Study, folder: Path) -> Document:
    """Make the report of a study, and draw its figures.

    Args:
        study: The runs.
        folder: The folder of the figures.

    Returns:
        The report.
    """
    reduced = study.reduced
    draws = reduced.draws
    drawn = _Drawn(folder, several=draws["data"].nunique() > 1)
    sections = [
        *_verdicts(study, drawn),
        *_ledgers(reduced, folder),
        _accuracy(reduced, drawn),
        _published(study),
        _differences(reduced, drawn),
        _users(reduced, drawn),
        _matrices(study, drawn),
        _costs(study, drawn),
        _settings(study),
        _again(study),
    ]
    labels = draws["label"].unique()
    what = _count(len(labels), "row") if len(labels) > ROWS_NAMED else _and(labels)
    title = f"{what} on {_and(draws['data'].unique())}"
    return Document(title, lead(study), tuple(section for section in sections if section is not None))


def lead(study: Study) -> str:
    """Say what was run, by which program, and what is missing, in a few sentences.

    Args:
        study: The runs.

    Returns:
        The sentences.
    """
    frame = study.reduced.draws
    seeds = sorted(frame["seed"].unique())
    sizes = [
        _count(frame["user"].nunique(), "user"),
        f"{_count(frame['iteration'].nunique(), 'draw')} of each",
        _count(max(map(len, study.reduced.means.values())), "task"),
        f"{'seeds' if len(seeds) > 1 else 'seed'} {_and(seeds)}",
    ]
    environment = flat(study.runs[0].environment)
    commits = sorted({str(run.environment.get("git_commit") or "unknown")[:12] for run in study.runs})
    modified = " with changes" if any(run.environment.get("git_modified") for run in study.runs) else ""
    made = [
        f"dua_lightning {environment.get('dua_lightning', '')}",
        f"commit {_and(commits)}{modified}",
        f"torch {environment.get('packages.torch', '')}",
        f"on {environment.get('platform', 'an unknown machine')}",
    ]
    text = (
        f"{_count(frame['label'].nunique(), 'row')} on {_and(frame['data'].unique())} with "
        f"{_and(frame['model'].unique())}: {', '.join(sizes)}. "
        f"From {_count(len(study.runs), 'run')} by {', '.join(made)}."
    )
    return text + (f" Missing: {'; '.join(study.missing)}." if study.missing else "")


class _Drawn:
    """Draws figures into a folder, for each benchmark one."""

    def __init__(self, folder: Path, several: bool) -> None:
        self.folder = folder
        self.several = several

    def each(
        self, name: str, reduced: Reduced, draw: Callable[[Reduced, Path], Path], say: Callable[[Reduced], str]
    ) -> Iterator[Picture]:
        for data, part in reduced.benchmarks():
            yield Picture(draw(part, self.folder / f"{self.name(name, data)}.svg"), say(part))

    def name(self, name: str, data: object) -> str:
        """Name the file for one benchmark, whatever characters that has in its name."""
        return f"{name}-{filename(str(data))}" if self.several else name


def _verdicts(study: Study, drawn: _Drawn) -> Iterator[Section]:
    """A verdict on each benchmark with each network."""
    groups = study.reduced.draws.groupby(["data", "model"], sort=False)
    for (data, model), draws in groups:
        runs = [run for run in study.runs if (run.benchmark, str(run.settings.get("model.name"))) == (data, model)]
        # Commands of one run would not make the rows of several.
        alone = runs[0] if len(runs) == 1 else None
        costs = study.costs[(study.costs["data"] == data) & (study.costs["model"] == model)]
        facts = next((run.facts for run in runs if run.facts), None)
        answers = verdict.verdict(draws, costs, facts, *((alone.given, alone.folder) if alone else ()))
        if not answers:
            continue
        parts: list[Answers | Picture] = [Answers(answers)]
        if len(few := verdict.few(draws)) > 1:
            path = drawn.folder / f"{filename(f'few_images-{data}-{model}' if len(groups) > 1 else 'few_images')}.svg"
            parts.append(Picture(figures.few_images(few, path), headlines.few_images(few)))
        title = "The verdict" if len(groups) == 1 else f"The verdict on {data} with {model}"
        yield Section(title, "", tuple(parts))


def ledgers(reduced: Reduced, folder: Path, form: str) -> Iterator[tuple[str, pd.DataFrame, Answer | None, Path]]:
    """Make the ledger of each benchmark with each network, and draw it.

    Args:
        reduced: The reduced records.
        folder: The folder of the figures.
        form: The end of their files' names, such as `svg`.

    Yields:
        For each ledger that has lines its name, its lines with their benchmark and network, what is said of the user's
        own prior, and the figure.
    """
    groups = reduced.draws.groupby(["data", "model"], sort=False)
    for (data, model), draws in groups:
        found = ledger.ledger(draws)
        if found.empty:
            continue
        found.insert(0, "data", str(data))
        found.insert(1, "model", str(model))
        name = filename(f"ledger-{data}-{model}") if len(groups) > 1 else "ledger"
        path = figures.ledger(found, ledger.gains(draws), folder / f"{name}.{form}")
        yield f"{data} with {model}", found, ledger.prior(draws), path


def _ledgers(reduced: Reduced, folder: Path) -> Iterator[Section]:
    for name, found, answer, path in ledgers(reduced, folder, "svg"):
        answers = [Answers((answer,))] if answer else []
        table = Table(path.stem, found.drop(columns=["data", "model", "server"]), ledger.note(found), folded=True)
        yield Section(f"The ledger of {name}", "", (*answers, Picture(path, headlines.ledger(found)), table))


def _accuracy(reduced: Reduced, drawn: _Drawn) -> Section:
    axes = [reduce.AXES[axis] for axis in reduce.repeated(reduced.draws)]
    note = "Average accuracy in percent, forgetting in points (lower is better; empty where it is not defined). " + (
        f"CI: half the 95 % t interval over {_and(axes)}, of the means over the rest."
        if axes
        else "One seed, user and draw: no interval."
    )
    pictures = drawn.each("accuracy", reduced, figures.accuracies, lambda part: headlines.accuracy(part.draws))
    return Section("Accuracy and forgetting", "", (Table("rows", reduce.rows(reduced.draws), note), *pictures))


def _published(study: Study) -> Section | None:
    lines = compare(study.reduced.draws, published()).dropna(subset="measured")
    if lines.empty:
        return None
    names = {str(run.settings.get("data.images.name", PAPERS_IMAGES)) for run in study.runs} - {PAPERS_IMAGES}
    stand_in = (
        f" Measured on {_and(sorted(names))}, a stand-in for the paper's images: not to be compared." if names else ""
    )
    frame = pd.DataFrame(
        {
            "row": lines["label"],
            "table": lines["table"].astype(int),
            "data": lines["data"],
            "model": lines["model"],
            "published": lines["accuracy"],
            "measured": lines["measured"],
            "gap": lines["gap"],
            "published forgetting": lines["forgetting"],
            "measured forgetting": lines["measured_forgetting"],
        }
    )
    note = "Average accuracy in percent; forgetting in points, divided by the number of tasks as published."
    return Section(
        "Measured beside published", f"De Lange et al., CVPR 2020.{stand_in}", (Table("published", frame, note),)
    )


def _differences(reduced: Reduced, drawn: _Drawn) -> Section | None:
    parts: list[Table | Picture] = []
    for data, part in reduced.benchmarks():
        pairs = reduce.differences(part.draws)
        if pairs.empty:
            continue
        axis = next(name for name in map(str, pairs) if name.startswith("CI "))
        note = (
            "First minus second, average accuracy in points, paired by seed, user and draw; CI: half the 95 % t "
            f"interval over {axis[4:-1]}, p of the t test over them, corrected by Holm for all pairs "
            f"({len(pairs)}). No p where all differences are alike, nor of fewer than three values."
        )
        name = drawn.name("differences", data)
        title = headlines.differences(pairs)
        parts.append(Picture(figures.difference_map(pairs, drawn.folder / f"{name}.svg"), title))
        ranked = pairs.sort_values("difference", key=lambda values: -values.abs(), kind="stable")
        parts.append(
            Table(name, ranked, note, {"difference": "+.2f", "p": ".2g", "p (Holm)": ".2g"}, len(pairs) > FOLDED)
        )
    return Section("Paired differences", "", tuple(parts)) if parts else None


def _users(reduced: Reduced, drawn: _Drawn) -> Section:
    draws = reduced.draws
    pictures = drawn.each("users", reduced, figures.user_map, lambda part: headlines.users(part.draws))
    extremes = "Average accuracy in percent, the mean over seeds and draws."
    each = "Average accuracy of each row for each user, in percent; CI as above."
    return Section(
        "Users",
        "",
        (
            *pictures,
            Table("extremes", reduce.extremes(draws), extremes),
            Table("users", reduce.users(draws), each, folded=True),
        ),
    )


def _matrices(study: Study, drawn: _Drawn) -> Section:
    reduced = study.reduced
    return Section(
        "What is kept while tasks are learnt",
        "Accuracy on each task (across) after each task (downwards), averaged over users, draws and seeds; then "
        "each task as a curve, before the mean of all rows in grey.",
        (
            *drawn.each("matrices", reduced, figures.accuracy_matrices, lambda part: headlines.kept(part.matrices)),
            *_tasks(study),
            *drawn.each(
                "forgetting",
                reduced,
                figures.forgetting_curves,
                lambda part: headlines.lost(part.matrices, part.task_names[0]),
            ),
        ),
    )


def _tasks(study: Study) -> Iterator[Table]:
    """The tasks and their categories, where the runs have written them down."""
    told = dict.fromkeys(
        (run.benchmark, place + 1, task.name, ", ".join(task.categories))
        for run in study.runs
        if run.facts
        for place, task in enumerate(run.facts.tasks)
    )
    if told:
        frame = pd.DataFrame(list(told), columns=["data", "number", "task", "categories"])
        yield Table("tasks", frame, "Tasks in the order of learning; records have their numbers.")


def _costs(study: Study, drawn: _Drawn) -> Section | None:
    parts: list[Table | Picture] = []
    if len(study.curves):
        path = figures.training_curves(study.curves, drawn.folder / "training.svg")
        parts.append(Picture(path, headlines.training(study.curves)))
    if len(study.trainings):
        note = (
            "Experts that these runs trained; those that came from the store took no time and are not here. Seconds "
            "and epochs are sums over tasks. Validation accuracy in percent: the best of each task, and their mean."
        )
        parts.append(Table("training", reduce.trainings(study.trainings), note, {"seconds": ".1f"}))
    if len(study.costs):
        note = (
            "One task on a user's device, medians over rows, users and tasks; the way in which batch-norm statistics "
            "were taken; on a GPU, the peak of its memory above what was in use before."
        )
        parts.append(Table("adaptation", reduce.cost_medians(study.costs), note, reduce.COST_FORMATS))
    text = "Training on the server and adapting on the device; measuring, merging and evaluating are not timed."
    return Section("Cost", text, tuple(parts)) if parts else None


def _settings(study: Study) -> Section:
    names = dict.fromkeys(name for run in study.runs for name in run.settings if name != ROWS)
    lines = []
    for name in names:
        values = list(dict.fromkeys(str(run.settings[name]) for run in study.runs if name in run.settings))
        more = ["..."] if len(values) > VALUES_NAMED else []
        lines.append((name, " | ".join([*values[:VALUES_NAMED], *more])))
    frame = pd.DataFrame(lines, columns=["setting", "value"])
    note = "Resolved; | between the values of several runs. Rows that one run asks for together have their own methods."
    return Section("Settings", "", (Table("settings", frame, note, folded=True),))


def _again(study: Study) -> Section:
    parts = []
    for run in study.runs:
        lines = dict(run.commands())
        parts.append(Commands(str(run.folder), lines, folded=len(lines) > 1))
    text = "Each command writes to a folder of its own; what the store has is not computed again."
    return Section("How to run each row again", text, tuple(parts))


def _and(values: Iterable[object]) -> str:
    """List words in a sentence; of many only the first, and how many more."""
    words = list(map(str, values))
    if len(words) > VALUES_NAMED:
        words = [*words[: VALUES_NAMED - 1], f"{len(words) - VALUES_NAMED + 1} more"]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}" + ("" if number == 1 else "s")
