"""Runs and sweeps read back from their folders."""

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from dua_lightning.errors import InputError
from dua_lightning.report import facts, records
from dua_lightning.report.curves import CURVE, METRICS, place, several
from dua_lightning.report.facts import Facts, task_names
from dua_lightning.report.records import CostRecord, MergeRecord, ReleaseRecord, TrainingRecord
from dua_lightning.report.reduce import Reduced, digests, reduce
from dua_lightning.store.files import replacing

CONFIG, ENVIRONMENT, OVERRIDES = "config.yaml", "environment.json", ".hydra/overrides.yaml"
"""The files of a run's folder that a report reads."""
ELSEWHERE = ("seed", "name", "paths", "logger", "threads", "debug", "store", "suggested")
"""Settings that change no result, are a column of the records, or act through others."""
ROWS = "method.rows"
"""The setting that makes a method stand for several rows."""
AXES = ("regularise", "importance", "merge", "statistics", "adapt", "release", "prior", "training")
"""Choices that a row is made of; on the command line they choose among the rows of a method."""
OF_ROWS = ("method.", *(f"{axis}." for axis in AXES[:-2]), *AXES[-2:])
"""Settings that a row is made of."""
OF_TRAINING = ("data.", "model.", "trainer.", "optimizer.", "scheduler.", "callbacks.", "regularise.", "training")
"""Settings that an expert is made of."""


@dataclass(frozen=True)
class Run:
    """One run, or one job of a sweep, as its folder has it.

    Args:
        folder: The folder.
        settings: The settings by their dotted names.
        given: The words of its command line.
        environment: Versions, commit and machine.
        results: The digests of its results.
        costs: A line for each adaptation, or none.
        releases: A line for each prior that a user sent through a release, or none.
        merges: A line for each merge of all experts for a user, or none.
        curves: A line for each epoch of a training, where the run's logger was `csv`, or none.
        trainings: A line for each expert that it trained, or none.
        facts: Its benchmark and its network, where the folder has them.
    """

    folder: Path
    settings: dict[str, Any]
    given: list[str]
    environment: dict[str, Any]
    results: pd.DataFrame
    costs: pd.DataFrame
    releases: pd.DataFrame
    merges: pd.DataFrame
    curves: pd.DataFrame
    trainings: pd.DataFrame
    facts: Facts | None

    @property
    def benchmark(self) -> str:
        """The benchmark's name in records."""
        simulate = str(self.settings.get("simulate.name", records.SIMULATE))
        return records.benchmark(str(self.settings.get("data.name")), simulate)

    def commands(self) -> Iterator[tuple[str, str]]:
        """Write the commands that make the run again.

        Yields:
            What a command makes, and the command: first all of it, then each row and seed alone.
        """
        kept = [text for text in self.given if _axis(text) != "paths.output_dir"]
        yield "all of it", _command(kept)
        rows: list[dict[str, Any]] = self.settings.get(ROWS) or [{}]
        asked = {_axis(text): text.partition("=")[2] for text in kept if _axis(text) in AXES}
        rows = [row for row in rows if all(row.get(axis, choice) == choice for axis, choice in asked.items())]
        seed = self.settings.get("seed")
        seeds = seed if isinstance(seed, list) else [seed]
        if len(rows) * len(seeds) == 1:
            return
        labels = self.facts.rows if self.facts else ()
        for number, row in enumerate(rows):
            choices = [f"{axis}={choice}" for axis, choice in row.items()]
            # Runs of earlier versions have not written down which row has which label.
            name = labels[number] if len(labels) == len(rows) else " ".join(choices)
            shared = [text for text in kept if _axis(text) not in ("method", "method.rows", "seed", *row)]
            for one in seeds:
                yield ", ".join(filter(None, (name, f"seed {one}"))), _command([*shared, *choices, f"seed={one}"])


@dataclass(frozen=True)
class Study:
    """Several runs as one; each result counts once.

    Args:
        runs: The runs.
        missing: The runs that failed or were stopped, and why.
        reduced: The reduced records.
        costs: A line for each adaptation.
        merges: A line for each merge of all experts for a user.
        curves: A line for each epoch of a training.
        trainings: A line for each expert that was trained.
    """

    runs: tuple[Run, ...]
    missing: tuple[str, ...]
    reduced: Reduced
    costs: pd.DataFrame
    merges: pd.DataFrame
    curves: pd.DataFrame
    trainings: pd.DataFrame


def study(folders: Sequence[Path]) -> Study:
    """Read everything in the folders of runs and sweeps, and what failed there.

    Rows of one name that were run with several settings are told apart by these.

    Args:
        folders: The folders.

    Returns:
        The runs as one.

    Raises:
        InputError: A folder is neither a run's nor a sweep's, a file is not theirs, or two results of the same differ.
    """
    runs = [run for folder in folders for run in read_runs(folder)]
    settings = [run.settings for run in runs]
    labels = _labels([run.results for run in runs], settings)
    experts = [set(run.trainings["experts"]) for run in runs]
    trained = _told_apart(experts, settings, set().union(*experts), OF_TRAINING)
    named = [_named(run, new) for run, new in zip(runs, labels, strict=True)]
    return Study(
        runs=tuple(named),
        missing=tuple(dict.fromkeys([*(f for folder in folders for f in _failures(folder)), *_unfinished(runs)])),
        reduced=replace(reduce(_relabelled([run.folder for run in runs], labels)), tasks=_tasks(runs)),
        costs=_joined([run.costs for run in named]),
        merges=_joined([run.merges for run in named]),
        curves=_joined([run.curves.replace({"experts": new}) for run, new in zip(runs, trained, strict=True)]),
        trainings=_joined([run.trainings.replace({"experts": new}) for run, new in zip(runs, trained, strict=True)]),
    )


def read_runs(folder: Path) -> list[Run]:
    """Read the run in a folder, or the jobs of the sweep there.

    The jobs of a sweep count whose records are in its table, or, where it never came to one, that finished.

    Args:
        folder: The folder.

    Returns:
        The runs.

    Raises:
        InputError: The folder is neither a run's nor a sweep's, or a file is not theirs.
    """
    if (folder / CONFIG).exists():
        return [_read(folder)]
    jobs = sorted(folder.glob(f"*/{CONFIG}"), key=lambda path: (len(path.parent.name), path.parent.name))
    if (folder / "records.csv").exists():
        keys = ["key", "result"]
        table = pd.MultiIndex.from_frame(_results(folder)[keys])
        found = [_read(path.parent) for path in jobs if (path.parent / "records.csv").exists()]
        found = [run for run in found if pd.MultiIndex.from_frame(run.results[keys]).isin(table).all()]
    else:
        found = [_read(path.parent) for path in jobs if (path.parent / "done.json").exists()]
    if not found:
        raise InputError(f"{folder} is not the folder of a run or of a sweep with results; name one that has {CONFIG}")
    return found


def join(jobs: Sequence[Path], path: Path) -> None:
    """Write the records of the jobs of a sweep as one table, with a piece of one job in memory at a time.

    Rows of one name that were run with several settings are told apart by these, as in a study.

    Args:
        jobs: The folders of the jobs.
        path: The file.

    Raises:
        InputError: A file cannot be read or written.
    """
    labels = _labels([_results(job) for job in jobs], [flat(_yaml(job / CONFIG)) for job in jobs])
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", errors="surrogateescape") as file:
        for number, frame in enumerate(_relabelled(jobs, labels)):
            header = [] if number else [tuple(frame.columns)]
            file.write(records.lines([*header, *frame.itertuples(index=False, name=None)]))


def again(given: Iterable[str], *changes: str) -> str:
    """Write the command that makes a run again, with other choices.

    Args:
        given: The words of its command line.
        *changes: The other choices, such as `seed=[1,2,3]`; a method takes the place of all that rows are made of.

    Returns:
        The command, in a folder of its own.
    """
    changed = {_axis(text) for text in changes} | {"paths.output_dir"}
    kept = [text for text in given if _axis(text) not in changed]
    if "method" in changed:
        kept = [text for text in kept if _axis(text) not in AXES and not _axis(text).startswith(OF_ROWS)]
    return _command([*kept, *changes])


def flat(node: Any, path: str = "") -> dict[str, Any]:
    """Give settings by their dotted names; lists stay whole.

    Args:
        node: Mappings of plain values within each other.
        path: The name of the node itself.

    Returns:
        The plain values by name.

    Examples:
        >>> flat({"a": {"b": 1, "c": [1, 2]}})
        {'a.b': 1, 'a.c': [1, 2]}
    """
    if not isinstance(node, dict):
        return {path: node}
    return {
        key: value for name, item in node.items() for key, value in flat(item, f"{path}.{name}".lstrip(".")).items()
    }


def differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Name the settings that all runs have and differ in, without those that change no result.

    Args:
        settings: The settings of each run by their dotted names.

    Returns:
        The names; a group that has a name stands by its name alone.
    """
    found = [
        name
        for name in (settings[0] if settings else {})
        if all(name in of_run for of_run in settings)
        and len({repr(of_run[name]) for of_run in settings}) > 1
        and not any(name == other or name.startswith(f"{other}.") for other in ELSEWHERE)
        # A run of several rows names them itself, and its own choices stand for none of them.
        and not (name.startswith(OF_ROWS) and any(ROWS in of_run for of_run in settings))
    ]
    named = tuple(f"{name.rpartition('.')[0]}." for name in found if name.endswith(".name"))
    return [name for name in found if name.endswith(".name") or not name.startswith(named)]


def _tasks(runs: Sequence[Run]) -> dict[str, tuple[str, ...]]:
    """The names of tasks by benchmark; none where the runs on one differ in them."""
    of: dict[str, list[Facts | None]] = {}
    for run in runs:
        of.setdefault(run.benchmark, []).append(run.facts)
    return {data: task_names(several) for data, several in of.items()}


def _results(folder: Path) -> pd.DataFrame:
    return pd.concat(map(digests, records.chunks(folder / "records.csv")), ignore_index=True)


def _relabelled(folders: Sequence[Path], labels: Sequence[Mapping[str, str]]) -> Iterator[pd.DataFrame]:
    for folder, new in zip(folders, labels, strict=True):
        for frame in records.chunks(folder / "records.csv"):
            yield frame.replace({"label": dict(new)})


def _named(run: Run, new: Mapping[str, str]) -> Run:
    """A run whose costs, releases, merges and facts have the names that its rows have among others."""
    costs = run.costs.assign(label=run.costs["label"].cat.rename_categories(dict(new)))
    known = run.facts and replace(run.facts, rows=tuple(new.get(label, label) for label in run.facts.rows))
    releases = run.releases.replace({"label": dict(new)})
    merges = run.merges.assign(label=run.merges["label"].cat.rename_categories(dict(new)))
    return replace(run, costs=costs, releases=releases, merges=merges, facts=known)


def _labels(results: Sequence[pd.DataFrame], settings: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """For each run new names of those labels that stand for several results of the same user, seed and draw."""
    joined = pd.concat(results)[["label", "key", "result"]].drop_duplicates()
    several = set(joined[joined.duplicated(["label", "key"])]["label"])
    return _told_apart([set(of_run["label"]) for of_run in results], settings, several)


def _told_apart(
    having: Sequence[set[str]],
    settings: Sequence[Mapping[str, Any]],
    values: set[str],
    groups: tuple[str, ...] = ("",),
) -> list[dict[str, str]]:
    """For each run new names of the `values` it has, with the settings of `groups` in which runs with it differ."""
    renamed: list[dict[str, str]] = [{} for _ in settings]
    for value in values:
        places = [at for at, of_run in enumerate(having) if value in of_run]
        names = [name for name in differing([settings[at] for at in places]) if name.startswith(groups)]
        for at in places:
            told = [f"{short}={settings[at][name]}" for name, short in _short(names).items()]
            renamed[at][value] = ", ".join([value, *told])
    return renamed


def _short(names: Sequence[str]) -> dict[str, str]:
    """Settings by the last part of their names, a group by its own; whole where two would be the same.

    Examples:
        >>> _short(["optimizer.lr", "model.name"])
        {'optimizer.lr': 'lr', 'model.name': 'model'}
    """
    found = {name: name.removesuffix(".name").rpartition(".")[2] for name in names}
    return found if len(set(found.values())) == len(found) else {name: name for name in names}


def _read(folder: Path) -> Run:
    given: Any = _yaml(folder / OVERRIDES) if (folder / OVERRIDES).exists() else []
    settings = flat(_yaml(folder / CONFIG))
    trainings = records.table(folder / "trainings.csv", TrainingRecord)
    return Run(
        folder=folder,
        settings=settings,
        given=[str(text) for text in given],
        environment=_json(folder / ENVIRONMENT),
        results=_results(folder),
        costs=records.table(folder / "costs.csv", CostRecord),
        releases=records.table(folder / "releases.csv", ReleaseRecord),
        merges=records.table(folder / "merges.csv", MergeRecord),
        curves=_curves(folder, trainings, settings.get("seed")),
        trainings=trainings,
        facts=facts.read(folder),
    )


def _curves(folder: Path, trainings: pd.DataFrame, seed_setting: Any) -> pd.DataFrame:
    """The epochs of each training that Lightning's CSVLogger wrote: seed, experts, task, and the columns of `CURVE`."""
    apart = several(seed_setting)
    depth = 3 if apart else 2
    # Later versions come last: a repeated run has each a folder of its own.
    paths = sorted(folder.rglob(METRICS), key=lambda path: path.stat().st_mtime)
    files = {path.parts[-depth - 1 : -1]: path for path in paths}
    parts = []
    for seed, experts, task in trainings[["seed", "experts", "task"]].itertuples(index=False):
        path = files.get(place(seed if apart else None, experts, task))
        if path is None:
            continue
        try:
            # Metrics of one epoch may be in several lines.
            curve = pd.read_csv(path)[CURVE].dropna(subset="epoch").groupby("epoch", as_index=False).first()
        except (OSError, ValueError, LookupError) as error:
            raise _refused(path, error) from error
        parts.append(curve.assign(seed=seed, experts=experts, task=task, epoch=curve["epoch"].astype(int) + 1))
    return _joined(parts) if parts else pd.DataFrame(columns=["seed", "experts", "task", *CURVE])


def _failures(folder: Path) -> Iterator[str]:
    for path in sorted(folder.glob("*/failed.json")):
        yield f"job {path.parent.name}: {_json(path).get('reason', 'no reason is known')}"


def _unfinished(runs: Sequence[Run]) -> Iterator[str]:
    for run in runs:
        seed = run.settings.get("seed")
        found = set(run.results["seed"])
        for one in seed if isinstance(seed, list) else []:
            if one not in found:
                yield f"{run.folder}: seed {one}"


def _yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise _refused(path, error) from error


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it holds no names")
    except (OSError, ValueError) as error:
        raise _refused(path, error) from error
    return found


def _refused(path: Path, error: Exception) -> InputError:
    return InputError(f"{path} cannot be read ({' '.join(str(error).split())}); run again, or name another run")


def _joined(tables: list[pd.DataFrame]) -> pd.DataFrame:
    filled = [table for table in tables if len(table)] or tables[:1]
    return pd.concat(filled, ignore_index=True).drop_duplicates(ignore_index=True)


def _axis(override: str) -> str:
    return override.partition("=")[0].lstrip("+")


def _command(arguments: Iterable[str]) -> str:
    return shlex.join(["dua", *arguments])
