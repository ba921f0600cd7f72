"""From a node of the configuration to the object it describes."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from pydantic import ConfigDict, ImportString, PydanticSchemaGenerationError, TypeAdapter, ValidationError

from dua_lightning.errors import InputError

DISPLAY = ("name", "label")
"""Keys of a node that name it for people and records; the object does not know them."""

RESERVED = ("_target_", "_partial_")
"""Keys of a node that say what is made and how, as in Hydra."""

VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def build(node: Any, path: str, kind: type = object, **given: Any) -> Any:
    """Call the node's `_target_` with its settings, nodes within it built first, and with `given`.

    With `_partial_` in the node the call is left to the caller, as in Hydra: what comes back takes further arguments.

    Args:
        node: A group of settings with a `_target_`.
        path: Its place in the configuration, for messages.
        kind: The class of what comes out, or of what a partial call makes.
        given: Arguments that are no settings.

    Raises:
        InputError: With the setting's place, its value and what is wrong: each setting is checked against the
            annotation of the parameter that it becomes.
    """
    if not isinstance(node, DictConfig) or not isinstance(node.get("_target_"), str):
        raise InputError(f"{path}={_shown(node)} cannot be used: it is a group of settings with a _target_")
    made, parameters = target(node._target_, f"{path}._target_")
    anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    settings: dict[str, Any] = {}
    for key, value in ((str(key), value) for key, value in node.items()):
        if key in RESERVED or (key in DISPLAY and key not in parameters):
            continue
        place = f"{path}.{key}"
        if key not in parameters and not anything:
            raise InputError(f"{place} is not a setting of {node._target_}; it has {', '.join(parameters)}")
        settings[key] = _setting(value, parameters[key].annotation if key in parameters else Any, place)
    if node.get("_partial_"):
        if isinstance(made, type) and not issubclass(made, kind):
            raise InputError(f"{path}._target_={node._target_} cannot be used there: it is not a {kind.__name__}")
        return partial(made, **settings, **given)
    for name, parameter in parameters.items():
        needed = parameter.default is parameter.empty and parameter.kind not in VARIADIC
        if needed and name not in settings | given:
            raise InputError(f"{path}.{name} is missing, and {node._target_} needs it; give {path}.{name}=VALUE")
    if (unknown := given.keys() - parameters.keys()) and not anything:
        raise InputError(f"{path}._target_={node._target_} cannot be used there: it takes no {sorted(unknown)[0]}")
    built = made(**settings, **given)
    if not isinstance(built, kind):
        raise InputError(f"{path}._target_={node._target_} cannot be used there: it does not make a {kind.__name__}")
    return built


def _setting(value: Any, annotation: Any, place: str) -> Any:
    if isinstance(value, ListConfig) and any(isinstance(item, DictConfig) and "_target_" in item for item in value):
        return [_setting(item, Any, f"{place}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, DictConfig) and "_target_" in value:
        known = isinstance(annotation, type) and annotation is not inspect.Parameter.empty
        return build(value, place, annotation if known else object)
    return check(value, annotation, place)


def target(name: str, place: str = "_target_") -> tuple[Callable[..., Any], Mapping[str, inspect.Parameter]]:
    """What a `_target_` names, and its parameters. Raises `InputError` where there is nothing that can be called."""
    try:
        found = TypeAdapter(ImportString[Callable[..., Any]]).validate_python(name)
        return found, _signature(found).parameters
    except (ValidationError, ValueError, TypeError) as error:
        raise InputError(f"{place}={name} is nothing that can be made; take it from a file of conf") from error


def _signature(made: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(made, eval_str=True)
    except NameError:
        # Some annotations are there for type checkers alone.
        return inspect.signature(made)


def _shown(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def plain(node: DictConfig) -> dict[str, Any]:
    """The node's settings in plain values, without what only names it or a node within it for people."""
    return _without_names(OmegaConf.to_container(node, resolve=True))  # type: ignore[no-any-return]


def _without_names(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_names(item) for key, item in value.items() if key not in DISPLAY}
    return value


def check(value: Any, annotation: Any, place: str) -> Any:
    """`value` as the type `annotation`, or as it is without one; raises `InputError` where it is of another type."""
    value = _shown(value)
    if annotation is inspect.Parameter.empty or isinstance(annotation, str):
        return value
    try:
        return _adapter(annotation).validate_python(value)
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
        raise InputError(f"{place}={value} cannot be used: {problem[0].lower()}{problem[1:]}") from error


def _adapter(annotation: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(annotation)
    except PydanticSchemaGenerationError:
        # Among the types are classes that no plain value stands for.
        return TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
