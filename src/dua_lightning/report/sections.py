"""The sections of a report: their tables, figures and sentences."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pandas as pd

from dua_lightning.errors import InputError
from dua_lightning.report import card, figures, headlines, ledger, reduce, verdict
from dua_lightning.report.characters import filename
from dua_lightning.report.document import Answer, Answers, Commands, Document, Picture, Printed, Section, Table
from dua_lightning.report.paper import Made
from dua_lightning.report.published import compare, published
from dua_lightning.report.reduce import Reduced
from dua_lightning.report.runs import ROWS, Study, again, flat

FOLDED = 20
"""Longer tables of pairs are folded."""
ROWS_NAMED = 4
"""More rows than this are counted in the title, and not named."""
VALUES_NAMED = 6
"""More values than this of a setting are cut."""
COMMANDS_PRINTED = 2
"""More commands than this are counted in a caption."""
USERS_PRINTED = 8
"""More users than this have no column each."""
STD = "std"
"""The standard deviation over seeds as a spread; the others are the values of `reduce.AXES`, for intervals."""
PAPERS_IMAGES = "mit_indoor"
"""The pictures of the paper's scene benchmarks."""


def document(study: Study, folder: Path, forms: Sequence[str] = ("svg",), spread: str | None = None) -> Document:
    """Make the report of a study, and draw its figures.

    Args:
        study: The runs.
        folder: The folder of the figures.
        forms: The ends of their files' names; the report shows the first.
        spread: What a paper prints behind the accuracy of each row: `std`, or `seeds`, `users` or `iterations` for the
            interval over them; by default the first interval that there is.

    Returns:
        The report.

    Raises:
        InputError: There is a single seed, user or iteration, which has no spread.
    """
    reduced = study.reduced
    draws = reduced.draws
    drawn = _Drawn(folder, tuple(forms), several=draws["data"].nunique() > 1)
    sections = [
        *_verdicts(study, drawn),
        *_ledgers(reduced, drawn),
        _accuracy(reduced, drawn, spread),
        _published(study),
        _differences(reduced, drawn),
        _users(reduced, drawn),
        _matrices(study, drawn),
        _costs(study, drawn),
        _privacy(study),
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
    """Draws figures into a folder, in each of some forms."""

    def __init__(self, folder: Path, forms: tuple[str, ...], several: bool) -> None:
        self.folder = folder
        self.forms = forms
        self.several = several

    def __call__(self, name: str, draw: Callable[[Path], Path]) -> Path:
        """Draw a figure; the file of the first form is given back."""
        first, *_ = [draw(self.folder / f"{name}.{form}") for form in self.forms]
        return first

    def each(
        self, name: str, reduced: Reduced, draw: Callable[[Reduced, Path], Path], say: Callable[[Reduced], str]
    ) -> Iterator[Picture]:
        """Draw a figure of each benchmark."""
        for data, part in reduced.benchmarks():
            yield Picture(self(self.name(name, data), partial(draw, part)), say(part))

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
            name = filename(f"few_images-{data}-{model}") if len(groups) > 1 else "few_images"
            parts.append(Picture(drawn(name, partial(figures.few_images, few)), headlines.few_images(few)))
        title = "The verdict" if len(groups) == 1 else f"The verdict on {data} with {model}"
        yield Section(title, "", tuple(parts))


def ledgers(
    reduced: Reduced, folder: Path, forms: Sequence[str]
) -> Iterator[tuple[str, pd.DataFrame, Answer | None, Path]]:
    """Make the ledger of each benchmark with each network, and draw it.

    Args:
        reduced: The reduced records.
        folder: The folder of the figures.
        forms: The ends of their files' names, such as `svg`.

    Yields:
        For each ledger that has lines its name, its lines with their benchmark and network, what is said of the user's
        own prior, and the figure in the first of the forms.
    """
    groups = reduced.draws.groupby(["data", "model"], sort=False)
    drawn = _Drawn(folder, tuple(forms), several=len(groups) > 1)
    for (data, model), draws in groups:
        found = ledger.ledger(draws)
        if found.empty:
            continue
        found.insert(0, "data", str(data))
        found.insert(1, "model", str(model))
        path = drawn(drawn.name("ledger", f"{data}-{model}"), partial(figures.ledger, found, ledger.gains(draws)))
        yield f"{data} with {model}", found, ledger.prior(draws), path


def _ledgers(reduced: Reduced, drawn: _Drawn) -> Iterator[Section]:
    columns = dict.fromkeys(("line", "accuracy", "gain", "step", "lose", "lose a point", "worst tenth"), "")
    for name, found, answer, path in ledgers(reduced, drawn.folder, drawn.forms):
        answers = [Answers((answer,))] if answer else []
        printed = Printed(
            f"The ledger of {name}: accuracy in percent, and gain over {found['server'].iloc[0]}, the server's best "
            "without users' data, and over the line before (step) in points; percent of users who lose anything, or "
            "more than a point; mean gain of the worst tenth of users",
            {"ledger": "", **columns, "gain": "gain CI", "step": "step CI"},
            {"accuracy": "highest", "worst tenth": "highest"},
            "half the 95 % t interval over users",
            parts="ledger",
        )
        frame = found.drop(columns=["data", "model", "server"])
        formats = {"gain": "+.2f", "step": "+.2f", "lose": ".0f", "lose a point": ".0f", "worst tenth": "+.2f"}
        table = Table(path.stem, frame, ledger.note(found), formats, folded=True, printed=printed)
        yield Section(f"The ledger of {name}", "", (*answers, Picture(path, headlines.ledger(found)), table))


def _accuracy(reduced: Reduced, drawn: _Drawn, spread: str | None) -> Section:
    axes = [reduce.AXES[axis] for axis in reduce.repeated(reduced.draws)]
    frame = reduce.rows(reduced.draws)
    behind, said = _spread(axes, spread)
    if spread == STD:
        merits = reduce.over_seeds(reduced.draws).loc[frame["row"]]
        stds = {f"{name}{behind}": merits[f"{merit}_std"].to_numpy() for merit, name in reduce.MERITS.items()}
        frame = frame.assign(**stds)
    data = _and(reduced.draws["data"].unique())
    printed = Printed(
        f"Average accuracy in percent and forgetting in points (lower is better) on {data}",
        {"row": "", **{name: f"{name}{behind}" if behind else "" for name in reduce.MERITS.values()}},
        {"accuracy": "highest", "forgetting": "lowest"},
        said,
    )
    note = "Average accuracy in percent, forgetting in points (lower is better; empty where it is not defined). " + (
        f"CI: half the 95 % t interval over {_and(axes)}, of the means over the rest."
        if axes
        else "One seed, user and draw: no interval."
    )
    pictures = drawn.each("accuracy", reduced, figures.accuracies, lambda part: headlines.accuracy(part.draws))
    return Section("Accuracy and forgetting", "", (Table("rows", frame, note, printed=printed), *pictures))


def _spread(axes: Sequence[str], asked: str | None) -> tuple[str, str]:
    """The end of the names of the columns with a spread, and what it is; both empty where nothing is repeated."""
    known = [*axes, *([STD] if "seeds" in axes else [])]
    if asked is not None and asked not in known:
        raise InputError(
            f"--spread {asked} needs several {'seeds' if asked == STD else asked}, and these results have one; "
            + (f"use --spread {' or '.join(known)}" if known else "leave it out")
        )
    if asked == STD:
        return " std (seeds)", "the standard deviation over seeds"
    axis = asked or next(iter(axes), None)
    return (f" CI ({axis})", f"half the 95 % t interval over {axis}") if axis else ("", "")


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
    shown = [str(name) for name in frame if name not in ("data", "model") or frame[name].nunique() > 1]
    printed = Printed(
        f"Measured beside published (De Lange et al., CVPR 2020): {note[0].lower()}{note[1:-1]}",
        dict.fromkeys(shown, ""),
    )
    table = Table("published", frame, note, printed=printed)
    return Section("Measured beside published", f"De Lange et al., CVPR 2020.{stand_in}", (table,))


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
        parts.append(Picture(drawn(name, partial(figures.difference_map, pairs)), title))
        ranked = pairs.sort_values("difference", key=lambda values: -values.abs(), kind="stable")
        formats = {"difference": "+.2f", "p": ".2g", "p (Holm)": ".2g"}
        printed = Printed(
            f"First minus second row on {data}, average accuracy in points, paired by seed, user and draw; p of the t "
            f"test over {axis[4:-1]}, corrected by Holm for {_count(len(pairs), 'pair')}",
            {"first": "", "second": "", "difference": axis, "p (Holm)": ""},
            spread=f"half the 95 % t interval over {axis[4:-1]}",
        )
        parts.append(Table(name, ranked, note, formats, len(pairs) > FOLDED, printed))
    return Section("Paired differences", "", tuple(parts)) if parts else None


def _users(reduced: Reduced, drawn: _Drawn) -> Section:
    draws = reduced.draws
    pictures = drawn.each("users", reduced, figures.user_map, lambda part: headlines.users(part.draws))
    extremes = reduce.extremes(draws)
    note = "Average accuracy in percent, the mean over seeds and draws."
    of_extremes = [name for name in map(str, extremes) if name != "row" and not name.endswith("user")]
    printed = Printed(
        "The users who are served worst and best: average accuracy in percent, the mean over seeds and draws",
        dict.fromkeys(map(str, extremes), ""),
        dict.fromkeys(of_extremes, "highest"),
    )
    each = "Average accuracy of each row for each user, in percent; CI as above."
    return Section(
        "Users",
        "",
        (
            *pictures,
            Table("extremes", extremes, note, printed=printed),
            Table("users", reduce.users(draws), each, folded=True),
            *_by_user(draws, note),
        ),
    )


def _by_user(draws: pd.DataFrame, note: str) -> Iterator[Table]:
    """The rows with a column for each user, where these are few."""
    wide = reduce.over_seeds(draws, ("row", "user"))["average_accuracy"].unstack(sort=False)[draws["user"].unique()]
    if 1 < wide.shape[1] <= USERS_PRINTED and "row" not in wide:
        frame = wide.reset_index().rename_axis(columns=None)
        data = _and(draws["data"].unique())
        printed = Printed(
            f"Average accuracy for each user in percent on {data}, the mean over seeds and draws",
            dict.fromkeys(map(str, frame), ""),
            dict.fromkeys(map(str, wide), "highest"),
        )
        yield Table("by_user", frame, note, folded=True, printed=printed)


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
        note = "Tasks in the order of learning; records have their numbers."
        shown = [str(name) for name in frame if name != "data" or frame[name].nunique() > 1]
        printed = Printed("The tasks in the order of learning, and their categories", dict.fromkeys(shown, ""))
        yield Table("tasks", frame, note, printed=printed)


def _costs(study: Study, drawn: _Drawn) -> Section | None:
    parts: list[Table | Picture] = []
    if len(study.curves):
        path = drawn("training", partial(figures.training_curves, study.curves))
        parts.append(Picture(path, headlines.training(study.curves)))
    if len(study.trainings):
        note = (
            "Experts that these runs trained; those that came from the store took no time and are not here. Seconds "
            "and epochs are sums over tasks. Validation accuracy in percent: the best of each task, and their mean."
        )
        frame = reduce.trainings(study.trainings)
        printed = Printed(
            "What training on the server costs: epochs and seconds are sums over tasks, validation accuracy in percent "
            "is the mean over them",
            dict.fromkeys(map(str, frame), ""),
        )
        parts.append(Table("training", frame, note, {"seconds": ".1f"}, printed=printed))
    if len(study.costs):
        note = (
            "One task on a user's device, medians over rows, users and tasks; the way in which batch-norm statistics "
            "were taken; on a GPU, the peak of its memory above what was in use before. A row whose adaptation is its "
            "method's own stands under its label."
        )
        frame = reduce.cost_medians(study.costs)
        printed = Printed(
            "What adapting one task on a user's device costs: medians over rows, users and tasks",
            dict.fromkeys(map(str, frame), ""),
        )
        parts.append(Table("adaptation", frame, note, reduce.COST_FORMATS, printed=printed))
    if len(study.merges):
        note = (
            "All experts for one user, medians over users, draws and seeds. Up are a user's priors, or their encrypted "
            "shares; down are the experts, where the device needs them, and what its model has besides. On a GPU, the "
            "peak of its memory above what was in use before. Results of earlier versions have no line."
        )
        frame = reduce.merge_medians(study.merges)
        printed = Printed(
            "What merging costs one user: medians over users, draws and seeds", dict.fromkeys(map(str, frame), "")
        )
        parts.append(Table("merging", frame, note, reduce.MERGE_FORMATS, folded=True, printed=printed))
    text = (
        "Training on the server, adapting on the device, and merging wherever it is done; measuring and evaluating are "
        "not timed."
    )
    return Section("Cost", text, tuple(parts)) if parts else None


def _privacy(study: Study) -> Section | None:
    found = card.card(study)
    if found.empty:
        return None
    frame = found.assign(guarantee=[card.guarantee(line) for line in found.to_dict("records")])
    shown = {"row": "", "level": "", "sent": "", "guarantee": "", "recovered": "recovered CI", "gain": "gain CI"}
    printed = Printed(
        "What a user sends for one task in bytes; (epsilon, delta) of differential privacy; percent of the pictures of "
        f"simulated users that an attack gets back with a correlation above {card.CLOSE}; points of accuracy over the "
        "mean merge, which needs no prior",
        shown,
        spread="half the 95 % t interval over users",
    )
    formats = dict.fromkeys(("plain", "sent", "images", "users"), ",.0f")
    table = Table("privacy", frame, card.NOTE, formats, folded=True, printed=printed)
    text = "The rows that merge by a user's own prior. dua privacy RUN tries what an attack gets back from it."
    return Section("Privacy", text, (Answers(card.answers(found)), table))


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


def made(study: Study) -> Made:
    """Say how the numbers of a study's tables were made, for their captions.

    Args:
        study: The runs.

    Returns:
        Seeds, users and commands; of many commands the first ones.
    """
    draws = study.reduced.draws
    seeds = sorted(draws["seed"].unique())
    size = (
        f"{'Seeds' if len(seeds) > 1 else 'Seed'} {_and(seeds)}; {_count(draws['user'].nunique(), 'user')}; "
        f"{_count(draws['iteration'].nunique(), 'draw')} of each."
    )
    # Folders of this machine change no number, and are nobody else's.
    words = [[word for word in run.given if not word.lstrip("+").startswith("paths.")] for run in study.runs]
    commands = list(dict.fromkeys(again(of_run) for of_run in words))
    more = len(commands) - COMMANDS_PRINTED
    return Made(size, commands[:COMMANDS_PRINTED], f"{_count(more, 'other command')}" if more > 0 else "")


def _and(values: Iterable[object]) -> str:
    """List words in a sentence; of many only the first, and how many more."""
    words = list(map(str, values))
    if len(words) > VALUES_NAMED:
        words = [*words[: VALUES_NAMED - 1], f"{len(words) - VALUES_NAMED + 1} more"]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}" + ("" if number == 1 else "s")
