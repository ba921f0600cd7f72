"""From a node of the configuration to the object it describes."""

import inspect
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf
from pydantic import TypeAdapter, ValidationError

from dua_lightning.errors import InputError

DISPLAY = ("name", "label")
"""Keys of a node that name it for people and records; the object does not know them."""


def build(node: DictConfig, path: str, **given: Any) -> Any:
    """Call the node's `_target_` with its settings, nodes within it built first, and with `given`.

    `path` is the node's place in the configuration, for messages. Each setting is checked against the annotation of
    the parameter it becomes. Raises `InputError` with the setting's place, its value and what is wrong.
    """
    target = get_object(node._target_)
    parameters = inspect.signature(target).parameters
    settings: dict[str, Any] = {}
    for key, value in ((str(key), value) for key, value in node.items()):
        if key == "_target_" or (key in DISPLAY and key not in parameters):
            continue
        place = f"{path}.{key}"
        if key not in parameters:
            raise InputError(f"{place} is not a setting of {node._target_}; it has {', '.join(parameters)}")
        if isinstance(value, DictConfig):
            settings[key] = build(value, place)
        else:
            settings[key] = check(value, parameters[key].annotation, place)
    return target(**settings, **given)


def plain(node: DictConfig) -> dict[str, Any]:
    """The node's settings in plain values, without what only names it or a node within it for people."""
    return _without_names(OmegaConf.to_container(node, resolve=True))  # type: ignore[no-any-return]


def _without_names(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_names(item) for key, item in value.items() if key not in DISPLAY}
    return value


def check(value: Any, annotation: Any, place: str) -> Any:
    """`value` as the type `annotation`; raises `InputError` where it is another."""
    if isinstance(value, ListConfig):
        value = OmegaConf.to_container(value, resolve=True)
    try:
        return TypeAdapter(annotation).validate_python(value)
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
        raise InputError(f"{place}={value} cannot be used: {problem[0].lower()}{problem[1:]}") from error
