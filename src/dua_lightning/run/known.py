"""Settings that nothing reads are refused, with the nearest one that something does."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from hydra.conf import HydraConf
from omegaconf import DictConfig, OmegaConf

from dua_lightning.errors import InputError
from dua_lightning.run.build import DISPLAY, RESERVED, known_settings, without_head
from dua_lightning.run.settings import VERBS, Fidelity, Kept, Method, Paths, without_where

CHOICES = (*VERBS, "release", "data", "simulate", "model", "trainer", "optimizer", "scheduler", "engine", "logger")
"""Groups whose choice is built: its settings are the parameters of a class or a function."""
VALUES = ("name", "threads", "seed", "prior", "training", "adapt_after", "reset_batch_norm", "debug", "objective")
"""Settings outside all groups."""
GROUPS = {
    "paths": {field.name for field in fields(Paths)},
    "store": {field.name for field in fields(Kept)},
    "method": {"rows", *(field.name for field in fields(Method))},
    "fidelity": {field.name for field in fields(Fidelity)},
    "suggested": set(),
}
"""Groups of plain values, and those of them that the program reads; others are there to be referred to."""

_REFERENCE = re.compile(r"\$\{(?:oc\.select:)?(\.*)([\w.-]+)")


def refuse_unknown(cfg: DictConfig, folders: Iterable[Path] = ()) -> None:
    """Refuse a configuration with a setting that nothing reads.

    A setting is read by the program, by the class or function that a `_target_` names, or by an interpolation in this
    configuration or in a file of the folders.

    Args:
        cfg: The configuration that Hydra composed.
        folders: Folders of configuration files.

    Raises:
        InputError: There is such a setting; the message has the nearest one that is read.
    """
    raw: Any = OmegaConf.to_container(cfg, resolve=False)
    values: Any = OmegaConf.to_container(cfg, resolve=True)
    referred = {*_referred(raw), *(name for folder in folders for name in _in_files(folder))}

    def read(name: str) -> bool:
        return any(f"{name}.".startswith(f"{other}.") or other.startswith(f"{name}.") for other in referred)

    for name, value in values.items():
        if name in CHOICES:
            _refuse_in_choice(_parameters(value, name), name)
        elif name == "callbacks":
            for key, callback in value.items() if isinstance(value, Mapping) else ():
                if callback is not None and not (isinstance(callback, Mapping) and callback.get("_target_")):
                    raise InputError(f"callbacks.{key}={callback} cannot be used: a callback has a _target_")
                _refuse_in_choice(callback, f"callbacks.{key}")
        elif name in GROUPS:
            for key in value if isinstance(value, Mapping) else ():
                if key not in GROUPS[name] and not read(f"{name}.{key}"):
                    raise unknown(f"{name}.{key}", names(values))
        elif name not in VALUES and not read(name):
            raise unknown(name, set(names(values)) - {*names({name: value})})


def refuse_unknown_of_hydra(overrides: Iterable[str]) -> None:
    """Refuse a setting that was added to Hydra's own group and that Hydra does not know.

    Args:
        overrides: The overrides of that group.

    Raises:
        InputError: There is such a setting; the message has the nearest one of Hydra's.
    """
    settings: Any = {"hydra": OmegaConf.to_container(OmegaConf.structured(HydraConf))}
    for name in (text.lstrip("+").partition("=")[0] for text in overrides if text.startswith(("+hydra.", "++hydra."))):
        known = settings
        for part in name.split("."):
            # Loggers, launchers and callbacks have settings of their own.
            if not isinstance(known, Mapping) or not known:
                break
            if part not in known:
                raise unknown(name, names(settings))
            known = known[part]


def unknown(name: str, others: Iterable[str]) -> InputError:
    """Make the error for a setting that nothing reads.

    Args:
        name: Its dotted name.
        others: The dotted names of settings that there are.

    Returns:
        The error; its message has the nearest of the others.
    """
    similar = nearest(name, others)
    return InputError(f"{name} is not a setting{f'; did you mean {similar}?' if similar else ''}; --cfg job shows all")


def nearest(name: str, others: Iterable[str]) -> str | None:
    """Find the name that was probably meant.

    Args:
        name: A dotted name.
        others: The dotted names that there are.

    Returns:
        The nearest one, or the one with the same last part; `None` where none is near.
    """
    group, _, last = name.rpartition(".")
    # The first of several of one name counts.
    split = {other: other.rpartition(".") for other in reversed([*others]) if other != name}
    beside = {key: other for other, (where, _, key) in split.items() if where == group}
    elsewhere = {other: other for other, (where, _, _) in split.items() if where != group}
    anywhere = {key: other for other, (_, _, key) in split.items()}
    for word, words, cutoff in ((last, beside, 0.7), (name, elsewhere, 0.85), (last, anywhere, 0.8)):
        if found := difflib.get_close_matches(word, words, 1, cutoff):
            return words[found[0]]
    return None


def names(values: Mapping[str, Any], before: str = "") -> Iterator[str]:
    """Give the dotted names of all settings, groups as well.

    Args:
        values: Plain values by name.
        before: The name of the group that they are in, with a dot behind it.

    Yields:
        The names.
    """
    for key, value in values.items():
        yield f"{before}{key}"
        if isinstance(value, Mapping):
            yield from names(value, f"{before}{key}.")


def _parameters(value: Any, name: str) -> Any:
    """A choice without the settings that the program reads itself."""
    if name == "model":
        return without_head(value, name)
    return without_where(value) if name == "merge" and isinstance(value, Mapping) else value


def _refuse_in_choice(node: Any, place: str) -> None:
    if isinstance(node, list):
        for index, item in enumerate(node):
            _refuse_in_choice(item, f"{place}[{index}]")
    if not isinstance(node, Mapping) or "_target_" not in node:
        return
    if isinstance(node["_target_"], str):
        known_settings(node, place)
        for key, value in node.items():
            _refuse_in_choice(value, f"{place}.{key}")
    elif idle := sorted(node.keys() - {*RESERVED, *DISPLAY}):
        raise InputError(f"{place}.{idle[0]} has no effect: {place} is the choice of nothing; choose another {place}")


def _referred(node: Any, place: tuple[str, ...] = ()) -> Iterator[str]:
    """The names that interpolations within the node refer to."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _referred(value, (*place, str(key)))
    elif isinstance(node, list):
        for value in node:
            yield from _referred(value, (*place, ""))
    elif isinstance(node, str):
        for dots, name in _REFERENCE.findall(node):
            yield ".".join([*(place[: -len(dots)] if dots else ()), name.rstrip(".")])


def _in_files(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*.yaml"):
        for dots, name in _REFERENCE.findall(path.read_text(encoding="utf-8", errors="replace")):
            if not dots:
                yield name.rstrip(".")
