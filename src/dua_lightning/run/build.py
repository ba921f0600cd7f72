"""The way from a choice of the configuration, in plain values, to the object that it describes."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial, reduce
from importlib import import_module
from inspect import Parameter
from typing import Any, get_type_hints

from pydantic import ConfigDict, PydanticSchemaGenerationError, TypeAdapter, ValidationError

from dua_lightning.errors import InputError

DISPLAY = ("name", "label")
"""Keys of a choice that name it for people and records; the object does not know them."""

RESERVED = ("_target_", "_partial_")
"""Keys of a node that say what is made and how, as in Hydra."""

HEAD = "head"
"""The setting that names the last layer of a network of one's own."""

VARIADIC = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
"""Kinds of parameters that take any number of arguments."""


@dataclass(frozen=True)
class Choice:
    """The choice of one group of the configuration, in plain values, so that any process can build it.

    Args:
        place: The group, for messages: `adapt`.
        node: The settings; `_target_` names the class or function that is called with them, `name` and `label` are for
            people and records.
    """

    place: str
    node: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The choice's name in records and on the command line."""
        return str(check(self.node.get("name"), str, f"{self.place}.name"))

    @property
    def label(self) -> str:
        """The choice's name in tables."""
        return str(check(self.node.get("label"), str, f"{self.place}.label"))

    def build(self, kind: type = object, **given: Any) -> Any:
        """Build the object; see `build`.

        Args:
            kind: The class or protocol of the object.
            **given: Further arguments, which are not settings.

        Returns:
            The object.

        Raises:
            InputError: A setting cannot be used.
        """
        return build(self.node, self.place, kind, **given)

    def plain(self) -> dict[str, Any]:
        """Give the settings without the names for people, of this choice and of choices within it.

        Returns:
            Plain values by name.
        """
        return {key: _without_names(value) for key, value in self.node.items() if key not in DISPLAY}


def build(node: Any, place: str, kind: type = object, **given: Any) -> Any:
    """Call the node's `_target_` with its settings, nodes within it built first; a mapping of nodes makes a list.

    With `_partial_` in the node the call is left to the caller, as in Hydra: the result takes further arguments.

    Args:
        node: A group of settings with a `_target_`, in plain values.
        place: The node's place in the configuration, for messages.
        kind: The class or protocol of the object, or of the object that a partial call makes.
        **given: Further arguments, which are not settings.

    Returns:
        The object that the target returns.

    Raises:
        InputError: A setting is unknown, missing or of another type than the parameter it becomes, or the target
            refuses it; the message has its place, its value and what is wrong.
    """
    if not isinstance(node, Mapping) or not isinstance(node.get("_target_"), str):
        raise InputError(f"{place}={node} cannot be used: it is a group of settings with a _target_")
    name = node["_target_"]
    made, parameters = known_settings(node, place)
    settings = {
        key: _setting(value, parameters[key].annotation if key in parameters else Any, f"{place}.{key}")
        for key, value in node.items()
        if key not in RESERVED and (key not in DISPLAY or key in parameters)
    }
    if node.get("_partial_"):
        if isinstance(made, type) and not issubclass(made, kind):
            raise InputError(f"{place}._target_={name} cannot be used there: it is no {kind.__name__}")
        return partial(made, **settings, **given)
    for key, parameter in parameters.items():
        needed = parameter.default is parameter.empty and parameter.kind not in VARIADIC
        if needed and key not in settings | given:
            raise InputError(f"{place}.{key} is missing, and {name} needs it; give {place}.{key}=VALUE")
    if (unknown := given.keys() - parameters.keys()) and not takes_anything(parameters):
        raise InputError(f"{place}._target_={name} cannot be used there: it takes no {sorted(unknown)[0]}")
    try:
        built = made(**settings, **given)
    except InputError as error:
        raise InputError(f"{place}: {error}") from error
    except (ImportError, TypeError) as error:
        # Such an error of somebody else's code is most often one in its settings or its imports.
        if name.partition(".")[0] == __name__.partition(".")[0]:
            raise
        raise InputError(f"{place}._target_={name} cannot be used there: {_reason(error)}") from error
    if not isinstance(built, kind):
        wanted = f"{'an' if kind.__name__[0] in 'AEIOU' else 'a'} {kind.__name__}{_lacking(built, kind)}"
        raise InputError(f"{place}._target_={name} cannot be used there: it does not make {wanted}")
    return built


def _setting(value: Any, annotation: Any, place: str) -> Any:
    if isinstance(value, list) and any(isinstance(item, Mapping) and "_target_" in item for item in value):
        return [_setting(item, Any, f"{place}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, Mapping) and value and all(isinstance(v, Mapping) and "_target_" in v for v in value.values()):
        # Hydra sets one item of a mapping on the command line, and none of a list.
        return [_setting(item, Any, f"{place}.{name}") for name, item in value.items()]
    if isinstance(value, Mapping) and "_target_" in value:
        known = isinstance(annotation, type) and annotation not in (Parameter.empty, Any)
        return build(value, place, annotation if known else object)
    return check(value, annotation, place)


def known_settings(node: Mapping[str, Any], place: str) -> tuple[Callable[..., Any], Mapping[str, Parameter]]:
    """Find what a node's `_target_` names, and check that it has a parameter for every setting of the node.

    Args:
        node: A group of settings with a `_target_`, in plain values.
        place: The node's place in the configuration, for messages.

    Returns:
        The class or function, and its parameters by name.

    Raises:
        InputError: There is nothing of that name that can be called, or it has no such parameter.
    """
    name = node["_target_"]
    made, parameters = target(name, f"{place}._target_")
    for key in node:
        if key not in (*RESERVED, *DISPLAY, *parameters) and not takes_anything(parameters):
            similar = get_close_matches(key, parameters, 1)
            meant = f"; did you mean {place}.{similar[0]}?" if similar else ""
            raise InputError(f"{place}.{key} is not a setting of {name}{meant}; it has {', '.join(parameters)}")
    return made, parameters


def without_head(node: Mapping[str, Any], place: str) -> Mapping[str, Any]:
    """Take the name of the last layer, which the program reads, from the settings of a network.

    Args:
        node: The settings, in plain values.
        place: Their place in the configuration, for messages.

    Returns:
        The settings of the class or function that makes the network; one with an argument of that name keeps it.

    Raises:
        InputError: There is no such class or function.
    """
    if HEAD not in node or HEAD in target(str(node.get("_target_")), f"{place}._target_")[1]:
        return node
    return {key: value for key, value in node.items() if key != HEAD}


def takes_anything(parameters: Mapping[str, Parameter]) -> bool:
    """Tell whether a function takes arguments of any name.

    Args:
        parameters: Its parameters by name.

    Returns:
        Whether it does.
    """
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())


def target(name: str, place: str = "_target_") -> tuple[Callable[..., Any], Mapping[str, Parameter]]:
    """Find the class or function that a `_target_` names, and its parameters.

    Args:
        name: The full dotted name.
        place: Its place in the configuration, for messages.

    Returns:
        The class or function, and its parameters by name.

    Raises:
        InputError: There is nothing of that name that can be called, or its module cannot be imported.
    """
    try:
        found = _named(name)
        if callable(found):
            return found, _signature(found).parameters
        reason = f"it is a {type(found).__name__}, which cannot be called"
    # A module may raise anything while it is imported.
    except Exception as error:
        where = "; modules are looked for in this folder and in those of PYTHONPATH"
        reason = f"{_reason(error)}{where if isinstance(error, ModuleNotFoundError) else ''}"
        raise InputError(f"{place}={name} cannot be used: {reason}") from error
    raise InputError(f"{place}={name} cannot be used: {reason}")


def _named(name: str) -> Any:
    """Import the longest part of the name that is a module, and take the rest from it."""
    parts = name.split(".")
    for count in range(max(len(parts) - 1, 1), 0, -1):
        module = ".".join(parts[:count])
        try:
            found: Any = import_module(module)
        except ModuleNotFoundError as error:
            # A module that is there may lack another one, which is the reason then.
            if count > 1 and error.name is not None and f"{module}.".startswith(f"{error.name}."):
                continue
            raise
        return reduce(getattr, parts[count:], found)
    raise AssertionError


def _reason(error: Exception) -> str:
    """The message of an error of somebody else's code in one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, ImportError | AttributeError) and text else f"{type(error).__name__}: {text}"


def _signature(made: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(made, eval_str=True)
    except NameError:
        # Some annotations are there for type checkers alone.
        return inspect.signature(made)


def targets(value: Any) -> set[str]:
    """Collect every `_target_` in plain values.

    Args:
        value: Lists, mappings and plain values within each other.

    Returns:
        The full dotted names.
    """
    if isinstance(value, list):
        return {name for item in value for name in targets(item)}
    if isinstance(value, dict):
        own = {value["_target_"]} if isinstance(value.get("_target_"), str) else set()
        return own | {name for item in value.values() for name in targets(item)}
    return set()


def check(value: Any, annotation: Any, place: str) -> Any:
    """Check the type of a value.

    Args:
        value: A plain value.
        annotation: The type that it must have; without one the value stays as it is.
        place: Its place in the configuration, for messages.

    Returns:
        The value in that type.

    Raises:
        InputError: It is of another type; the message has its place, its value and what is wrong.
    """
    if annotation is Parameter.empty or isinstance(annotation, str):
        return value
    try:
        return _adapter(annotation).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{place}={value} cannot be used: {first['msg'][0].lower()}{first['msg'][1:]}") from error


def _adapter(annotation: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(annotation)
    except PydanticSchemaGenerationError:
        # Among the types are classes that no plain value stands for.
        return TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))


def typed(values: Any, kind: type, place: str) -> Any:
    """Make a dataclass of settings, each checked against the type of its field.

    Args:
        values: The settings by name; those that are no fields are left out.
        kind: The dataclass.
        place: The settings' place in the configuration, for messages.

    Returns:
        The dataclass.

    Raises:
        InputError: A setting is missing or of another type; the message has its place and what is wrong.
    """
    hints = get_type_hints(kind)
    if not isinstance(values, Mapping):
        raise InputError(f"{place}={values} cannot be used: it is a group of settings, {', '.join(hints)}")
    found = {name: check(values[name], hint, f"{place}.{name}") for name, hint in hints.items() if name in values}
    for name, parameter in inspect.signature(kind).parameters.items():
        if parameter.default is parameter.empty and name not in found:
            raise InputError(f"{place}.{name} is missing; give {place}.{name}=VALUE")
    return kind(**found)


def _lacking(built: Any, kind: type) -> str:
    """Name the members of a protocol that the object lacks, as the end of a message."""
    members = sorted(name for name in dir(kind) if not name.startswith("_") or name == "__call__")
    missing = [name for name in members if not hasattr(built, name)]
    return f", which has {', '.join(missing)} as well" if missing else ""


def _without_names(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_names(item) for item in value]
    if isinstance(value, dict):
        return {key: _without_names(item) for key, item in value.items() if key not in DISPLAY}
    return value
