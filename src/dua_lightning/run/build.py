"""From a node of the configuration to the object it describes."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from pydantic import ImportString, PydanticSchemaGenerationError, TypeAdapter, ValidationError

from dua_lightning.errors import InputError

DISPLAY = ("name", "label")
"""Keys of a node that name it for people and records; the object does not know them."""


def build(node: Any, path: str, kind: type = object, **given: Any) -> Any:
    """Call the node's `_target_` with its settings, nodes within it built first, and with `given`.

    `path` is the node's place in the configuration, for messages. Each setting is checked against the annotation of
    the parameter it becomes, and what comes out against `kind`. Raises `InputError` with the setting's place, its value
    and what is wrong.
    """
    if not isinstance(node, DictConfig) or not isinstance(node.get("_target_"), str):
        raise InputError(f"{path}={_shown(node)} cannot be used: it is a group of settings with a _target_")
    made, parameters = target(node._target_, f"{path}._target_")
    settings: dict[str, Any] = {}
    for key, value in ((str(key), value) for key, value in node.items()):
        if key == "_target_" or (key in DISPLAY and key not in parameters):
            continue
        place = f"{path}.{key}"
        if key not in parameters:
            raise InputError(f"{place} is not a setting of {node._target_}; it has {', '.join(parameters)}")
        annotation = parameters[key].annotation
        if isinstance(value, DictConfig) and "_target_" in value:
            inner = annotation if isinstance(annotation, type) and annotation is not inspect.Parameter.empty else object
            settings[key] = build(value, place, inner)
        else:
            settings[key] = check(value, annotation, place)
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in settings | given:
            raise InputError(f"{path}.{name} is missing, and {node._target_} needs it; give {path}.{name}=VALUE")
    if unknown := given.keys() - parameters.keys():
        raise InputError(f"{path}._target_={node._target_} cannot be used there: it takes no {sorted(unknown)[0]}")
    built = made(**settings, **given)
    if not isinstance(built, kind):
        raise InputError(f"{path}._target_={node._target_} cannot be used there: it does not make a {kind.__name__}")
    return built


def target(name: str, place: str = "_target_") -> tuple[Callable[..., Any], Mapping[str, inspect.Parameter]]:
    """What a `_target_` names, and its parameters. Raises `InputError` where there is nothing that can be called."""
    try:
        found = TypeAdapter(ImportString[Callable[..., Any]]).validate_python(name)
        return found, inspect.signature(found).parameters
    except (ValidationError, ValueError, TypeError) as error:
        raise InputError(f"{place}={name} is nothing that can be made; take it from a file of conf") from error


def _shown(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def plain(node: DictConfig) -> dict[str, Any]:
    """The node's settings in plain values, without what only names it or a node within it for people."""
    return _without_names(OmegaConf.to_container(node, resolve=True))  # type: ignore[no-any-return]


def _without_names(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_names(item) for key, item in value.items() if key not in DISPLAY}
    return value


def targets(value: Any) -> set[str]:
    """Every `_target_` in plain values."""
    if isinstance(value, list):
        return {name for item in value for name in targets(item)}
    if isinstance(value, dict):
        own = {value["_target_"]} if isinstance(value.get("_target_"), str) else set()
        return own | {name for item in value.values() for name in targets(item)}
    return set()


def check(value: Any, annotation: Any, place: str) -> Any:
    """`value` as the type `annotation`; raises `InputError` where it is another."""
    value = _shown(value)
    try:
        return TypeAdapter(annotation).validate_python(value)
    except PydanticSchemaGenerationError as error:
        raise InputError(f"{place}={value} cannot be used: it is a group of settings with a _target_") from error
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
        raise InputError(f"{place}={value} cannot be used: {problem[0].lower()}{problem[1:]}") from error
