"""Runs and sweeps read back from their folders."""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from dua_lightning.errors import InputError
from dua_lightning.report import records
from dua_lightning.report.records import CostRecord
from dua_lightning.run.stopping import command
from dua_lightning.store.files import replacing

CONFIG, ENVIRONMENT, OVERRIDES = "config.yaml", "environment.json", ".hydra/overrides.yaml"
COSTS = [field.name for field in fields(CostRecord)]
EPOCHS = ["seed", "experts", "task", "epoch", "train_loss", "val_accuracy", "lr"]
TRAINED = re.compile(r": seed (\d+): (.+) experts trained in ([\d.]+) s,")
"""The line of a run's log that a training ends with."""
KEYS = [name for name in records.COLUMNS if name != "accuracy"]
ELSEWHERE = ("seed", "name", "paths", "logger", "threads", "debug", "store", "trainer.checkpoint_seconds", "suggested")
"""Settings that change no result, are a column of the records, or act through others."""
ROWS = "method.rows"
OF_ROWS = ("method.", "regularise.", "importance.", "merge.", "statistics.", "adapt.", "prior", "training")
"""Groups of settings that a row is made of."""
OF_TRAINING = ("data.", "model.", "trainer.", "regularise.")
"""Groups of settings that an expert is made of."""


@dataclass(frozen=True)
class Run:
    """What one run, or one cell of a sweep, left in its folder.

    `settings`: by dotted names. `given`: the words of its command line. `epochs`: a line for each that was trained;
    `trainings`: for each, with its seconds. They and `costs` are empty where there was nothing of the kind.
    """

    folder: Path
    settings: dict[str, Any]
    given: list[str]
    environment: dict[str, Any]
    records: pd.DataFrame
    costs: pd.DataFrame
    epochs: pd.DataFrame
    trainings: pd.DataFrame

    def commands(self) -> Iterator[tuple[str, str]]:
        """What makes each row of each seed again, in a folder of its own, preceded by what makes all of them."""
        kept = [text for text in self.given if _axis(text) != "paths.output_dir"]
        yield "all of it", command(kept)
        rows: list[dict[str, str]] = self.settings.get(ROWS) or [{}]
        asked = {_axis(text): text.partition("=")[2] for text in kept if f"{_axis(text)}." in OF_ROWS[1:]}
        rows = [row for row in rows if all(row.get(axis, choice) == choice for axis, choice in asked.items())]
        seed = self.settings.get("seed")
        seeds = seed if isinstance(seed, list) else [seed]
        if len(rows) * len(seeds) == 1:
            return
        for row in rows:
            choices = [f"{axis}={choice}" for axis, choice in row.items()]
            shared = [text for text in kept if _axis(text) not in ("method", "method.rows", "seed", *row)]
            for one in seeds:
                yield " ".join([*choices, f"seed={one}"]), command([*shared, *choices, f"seed={one}"])


@dataclass(frozen=True)
class Study:
    """Several runs as one: their tables joined, each line once. `missing`: what failed or was stopped, and why."""

    runs: tuple[Run, ...]
    missing: tuple[str, ...]
    records: pd.DataFrame
    costs: pd.DataFrame
    epochs: pd.DataFrame
    trainings: pd.DataFrame


def study(folders: Sequence[Path]) -> Study:
    """Everything in the folders of runs and sweeps, and what failed there.

    Rows of one name that were run with several settings are told apart by these. Raises `InputError` for a folder that
    is neither a run's nor a sweep's, for files that are not theirs, and for two results of the same.
    """
    runs = [run for folder in folders for run in read_runs(folder)]
    tables = [run.records for run in runs]
    found = _joined(_with_settings(tables, "label", runs, _conflicts(map(_keyed, tables))))
    if found.duplicated(KEYS).any():
        first = found[found.duplicated(KEYS)].iloc[0]
        raise InputError(
            f"{', '.join(map(str, folders))} hold two results of {first['label']}, user {first['user']}, seed "
            f"{first['seed']}, by the same settings; leave one out, or look at both by dua compare A B"
        )
    experts = {name for run in runs for name in run.epochs["experts"]}
    curves, trainings = (
        _joined(_with_settings(tables, "experts", runs, experts, OF_TRAINING))
        for tables in ([run.epochs for run in runs], [run.trainings for run in runs])
    )
    return Study(
        runs=tuple(runs),
        missing=tuple(dict.fromkeys([*(f for folder in folders for f in _failures(folder)), *_unfinished(runs)])),
        records=found,
        costs=_joined([run.costs for run in runs]),
        epochs=curves,
        trainings=trainings,
    )


def read_runs(folder: Path) -> list[Run]:
    """The run in `folder`, or the cells of the sweep there; raises as `study` does.

    Of a sweep the cells count whose records are in its table, or, where it never came to one, that finished.
    """
    if (folder / CONFIG).exists():
        return [_read(folder)]
    cells = sorted(folder.glob(f"*/{CONFIG}"), key=lambda path: (len(path.parent.name), path.parent.name))
    if (folder / "records.csv").exists():
        table = _lines(records.read(folder / "records.csv"))
        found = [_read(path.parent) for path in cells if (path.parent / "records.csv").exists()]
        found = [run for run in found if table >= _lines(run.records)]
    else:
        found = [_read(path.parent) for path in cells if (path.parent / "done.json").exists()]
    if not found:
        raise InputError(f"{folder} is not the folder of a run or of a sweep with results; name one that has {CONFIG}")
    return found


def join(cells: Sequence[Path], path: Path) -> None:
    """Write the records of the cells of a sweep to `path` as one table, with those of one cell in memory at a time.

    Rows of one name that were run with several settings are told apart by these, as in a study. Raises `InputError`.
    """
    labels: list[set[str]] = []
    keyed = []
    for cell in cells:
        frame = records.read(cell / "records.csv")
        labels.append(set(frame["label"]))
        keyed.append(_keyed(frame))
    names = _told_apart(labels, [flat(_yaml(cell / CONFIG)) for cell in cells], _conflicts(keyed))
    with replacing(path) as temporary:
        for place, cell in enumerate(cells):
            frame = records.read(cell / "records.csv").replace({"label": names[place]})
            frame.to_csv(temporary, index=False, mode="a", header=place == 0)


def flat(node: Any, path: str = "") -> dict[str, Any]:
    """Settings by their dotted names; lists stay whole.

    >>> flat({"a": {"b": 1, "c": [1, 2]}})
    {'a.b': 1, 'a.c': [1, 2]}
    """
    if not isinstance(node, dict):
        return {path: node}
    return {
        key: value for name, item in node.items() for key, value in flat(item, f"{path}.{name}".lstrip(".")).items()
    }


def differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The settings that all runs have and differ in; of a group with a name its name alone.

    Without those that change no result.
    """
    found = [
        name
        for name in (settings[0] if settings else {})
        if all(name in of_run for of_run in settings)
        and len({repr(of_run[name]) for of_run in settings}) > 1
        and not any(name == place or name.startswith(f"{place}.") for place in ELSEWHERE)
        # A run of several rows names them itself, and its own choices stand for none of them.
        and not (name.startswith(OF_ROWS) and any(ROWS in of_run for of_run in settings))
    ]
    named = tuple(f"{name.rpartition('.')[0]}." for name in found if name.endswith(".name"))
    return [name for name in found if name.endswith(".name") or not name.startswith(named)]


def _lines(frame: pd.DataFrame) -> set[tuple[object, ...]]:
    """The records without their labels, which the table of a sweep may have told apart."""
    return set(frame.drop(columns="label").itertuples(index=False, name=None))


def _keyed(frame: pd.DataFrame) -> pd.DataFrame:
    """Of each record its label, a hash of what identifies it, and its accuracy: a hundredth of its memory."""
    keys = pd.util.hash_pandas_object(frame[KEYS], index=False)
    return pd.DataFrame({"label": frame["label"].astype("category"), "key": keys, "accuracy": frame["accuracy"]})


def _conflicts(keyed: Iterable[pd.DataFrame]) -> set[str]:
    """Labels that stand for several results of the same user, seed and draw."""
    joined = pd.concat(keyed).drop_duplicates()
    return set(joined[joined.duplicated("key")]["label"])


def _with_settings(
    tables: Sequence[pd.DataFrame], column: str, runs: Sequence[Run], values: set[str], groups: tuple[str, ...] = ("",)
) -> list[pd.DataFrame]:
    """The runs' tables, with those `values` of a column told apart that are in several."""
    names = _told_apart([set(table[column]) for table in tables], [run.settings for run in runs], values, groups)
    return [table.assign(**{column: table[column].replace(new)}) for table, new in zip(tables, names, strict=True)]


def _told_apart(
    having: Sequence[set[str]],
    settings: Sequence[Mapping[str, Any]],
    values: set[str],
    groups: tuple[str, ...] = ("",),
) -> list[dict[str, str]]:
    """For each run the new names of the `values` it has, with the settings of `groups` in which runs with it differ."""
    renamed: list[dict[str, str]] = [{} for _ in settings]
    for value in values:
        places = [place for place, of_run in enumerate(having) if value in of_run]
        names = [name for name in differing([settings[place] for place in places]) if name.startswith(groups)]
        for place in places:
            told = [f"{short}={settings[place][name]}" for name, short in _short(names).items()]
            renamed[place][value] = ", ".join([value, *told])
    return renamed


def _short(names: Sequence[str]) -> dict[str, str]:
    """Settings by the last part of their names, a group by its own; whole where two would be the same.

    >>> _short(["trainer.lr", "model.name"])
    {'trainer.lr': 'lr', 'model.name': 'model'}
    """
    found = {name: name.removesuffix(".name").rpartition(".")[2] for name in names}
    return found if len(set(found.values())) == len(found) else {name: name for name in names}


def _read(folder: Path) -> Run:
    config: Any = _yaml(folder / CONFIG)
    given: Any = _yaml(folder / OVERRIDES) if (folder / OVERRIDES).exists() else []
    log = folder / "dua.log"
    lines = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    epochs = _csv(folder / "training.csv", EPOCHS)
    return Run(
        folder=folder,
        settings=flat(config),
        given=[str(text) for text in given],
        environment=_json(folder / ENVIRONMENT),
        records=records.read(folder / "records.csv"),
        costs=_csv(folder / "costs.csv", COSTS),
        epochs=epochs,
        trainings=_trainings(epochs, {(int(seed), name): float(s) for seed, name, s in TRAINED.findall(lines)}),
    )


def _trainings(epochs: pd.DataFrame, seconds: dict[tuple[int, str], float]) -> pd.DataFrame:
    """What each training of a run took, and the mean over its tasks of their best validation accuracy (percent)."""
    lines = []
    for _, group in epochs.groupby(["seed", "experts"], sort=False):
        experts, seed = str(group["experts"].iloc[0]), int(group["seed"].iloc[0])
        best = float(group.groupby("task")["val_accuracy"].max().mean())
        took = seconds.get((seed, experts), math.nan)
        lines.append((experts, seed, group["task"].nunique(), len(group), took, best))
    return pd.DataFrame(lines, columns=["experts", "seed", "tasks", "epochs", "seconds", "validation accuracy"])


def _failures(folder: Path) -> Iterator[str]:
    for path in sorted(folder.glob("*/failed.json")):
        yield f"job {path.parent.name}: {_json(path).get('reason', 'no reason is known')}"


def _unfinished(runs: Sequence[Run]) -> Iterator[str]:
    for run in runs:
        seed = run.settings.get("seed")
        found = set(run.records["seed"])
        for one in seed if isinstance(seed, list) else []:
            if one not in found:
                yield f"{run.folder}: seed {one}"


def _yaml(path: Path) -> Any:
    try:
        return OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        raise _refused(path, error) from error


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it holds no names")
    except (OSError, ValueError) as error:
        raise _refused(path, error) from error
    return found


def _csv(path: Path, columns: list[str]) -> pd.DataFrame:
    """A table that a run may have left; without lines where it has not."""
    if not path.exists():
        return pd.DataFrame(columns=columns)
    try:
        frame = pd.read_csv(path, keep_default_na=False, na_values=["nan"], dtype={"user": str, "adapt": str})
        if missing := [name for name in columns if name not in frame]:
            raise ValueError(f"it has no column {missing[0]}")
    except (OSError, ValueError) as error:
        raise _refused(path, error) from error
    return frame


def _refused(path: Path, error: Exception) -> InputError:
    return InputError(f"{path} cannot be read ({' '.join(str(error).split())}); run again, or name another run")


def _joined(tables: list[pd.DataFrame]) -> pd.DataFrame:
    filled = [table for table in tables if len(table)] or tables[:1]
    return pd.concat(filled, ignore_index=True).drop_duplicates()


def _axis(override: str) -> str:
    return override.partition("=")[0].lstrip("+")
