"""The version of the code that makes something: its syntax trees, and the libraries that it uses.

Starting from the classes and functions that are used, their sources are followed by name, without running anything.
Every definition that is mentioned counts, in this package and in every module that is not an installed library, with
the definitions that it mentions in turn. Comments, docstrings, layout and definitions that nobody mentions do not
count, so that none of them makes a kept result stale. A library counts with the version of its distribution.

A module may also act when it is imported, for example by entering a rule into a table. So in each module that is
reached these statements count although nobody mentions them: those that bind no name, blocks, definitions with a
decorator or a base class from such a module, names bound to what a call of such a function returns, and imports that
the module neither uses nor lists in `__all__`. Names that are computed while the program runs cannot be followed.
"""

import ast
import builtins
import importlib.util
import pkgutil
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from contextlib import suppress
from functools import cache, cached_property
from hashlib import sha256
from importlib import invalidate_caches, metadata
from importlib.abc import InspectLoader
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from dua_lightning.errors import InputError

PACKAGE = "dua_lightning"
"""The name of this package."""

HARMLESS = (f"{PACKAGE}.store.", f"{PACKAGE}.progress.")
"""Rooms that change no bit of the values they are given: they keep and digest them, or say how far it is."""

STANDARD = Path(ast.__file__).parent
"""The folder of Python's own modules."""

DISTRIBUTIONS = {"PIL": "pillow", "cv2": "opencv-python-headless", "hydra": "hydra-core", "skimage": "scikit-image"}
"""Distributions whose names differ from their module's; others are found too, but the search takes half a second."""

_FULL_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")

Used = str | Callable[..., Any]
"""A class or a function, or its full dotted name."""


class Code:
    """The sources of Python modules, each read at most once.

    Args:
        path: The folders that modules are searched in; by default those that Python searches.
    """

    def __init__(self, path: Sequence[str] | None = None) -> None:
        self._path = path
        self._modules: dict[str, _Module | None] = {}
        self._libraries: dict[str, str | None] = {}
        self._standard: dict[str, bool] = {}
        self._found: dict[str, tuple[list[str], set[str]]] = {}
        if path is not None:
            # Python remembers what a folder held.
            invalidate_caches()

    def version(self, *used: Used) -> dict[str, Any]:
        """Tell the version of everything that some classes and functions are made of.

        Args:
            *used: Classes and functions, or their full names, in any order.

        Returns:
            Plain values: `code`, the SHA-256 of all trees in hexadecimal, and `libraries`, the version of each one.

        Raises:
            InputError: For a name whose module has no file.
        """
        todo = {_full_name(one) for one in used}
        for name in todo:
            top = name.partition(".")[0]
            if sys.modules.get(top) is not None and self._spec(top) is None:
                raise InputError(f"the code of {name} is in no file; put it into a module that can be imported")
        seen: set[str] = set()
        libraries: dict[str, str] = {}
        trees: set[str] = set()
        while todo:
            name = todo.pop()
            seen.add(name)
            top = name.partition(".")[0]
            if self.standard(top) or f"{name}.".startswith(HARMLESS):
                continue
            if (library := self.library(top)) is not None:
                libraries[top] = library
                continue
            if name not in self._found:
                self._found[name] = self._follow(name)
            lines, mentioned = self._found[name]
            trees.update(lines)
            todo |= mentioned - seen
        code = sha256(repr(sorted(trees)).encode()).hexdigest()
        return {"code": code, "libraries": dict(sorted(libraries.items()))}

    def standard(self, top: str) -> bool:
        """Tell whether a module is one of Python's own; one of the same name may lie before it.

        Args:
            top: The name of a module without packages above it.

        Returns:
            Whether it is.
        """
        if top not in sys.stdlib_module_names:
            return False
        if top not in self._standard:
            spec = self._spec(top)
            origin = None if spec is None else spec.origin
            self._standard[top] = origin in (None, "built-in", "frozen") or Path(origin).is_relative_to(STANDARD)
        return self._standard[top]

    def source(self, top: str) -> bool:
        """Tell whether a module is there and is read as source.

        Args:
            top: The name of a module without packages above it.

        Returns:
            Whether it is.
        """
        return not self.standard(top) and self.library(top) is None and self._module(top) is not None

    def library(self, top: str) -> str | None:
        """Tell the version of an installed library.

        Args:
            top: The name of a module without packages above it.

        Returns:
            The version of its distribution; `None` for a module that is read as source.
        """
        if top not in self._libraries:
            spec = None if top == PACKAGE else self._spec(top)
            places = [] if spec is None else [spec.origin or "", *(spec.submodule_search_locations or ())]
            installed = any({"site-packages", "dist-packages"} & {*Path(place).parts} for place in places)
            self._libraries[top] = _installed(top) if installed else None
        return self._libraries[top]

    def _follow(self, name: str) -> tuple[list[str], set[str]]:
        """The trees that `name` stands for, and the full names that they mention."""
        top, *rest = name.split(".")
        module = self._module(top)
        if module is None:
            return [f"{top} is missing"], set()
        found = [module.always]
        names = module.names
        for part in rest:
            # A package may bind the name of a module within it.
            bound = {part} & module.names
            found += [module.definition(name) for name in bound]
            inner = self._module(f"{module.name}.{part}")
            if inner is None:
                # A name that the source does not bind may come from anything in the module.
                names = set() if bound else module.names
                break
            # Importers of a name get what the package binds to it, which may hide a module of the same name.
            names = set() if module.hides(part) else inner.names
            module = inner
            found.append(module.always)
        found += [module.definition(name) for name in names]
        return [line for line, _ in found], set().union(*(mentioned for _, mentioned in found))

    def _module(self, name: str) -> "_Module | None":
        if name not in self._modules:
            spec = self._spec(name)
            self._modules[name] = None if spec is None else _Module(spec, self)
        return self._modules[name]

    def _spec(self, name: str) -> ModuleSpec | None:
        parent, _, _ = name.rpartition(".")
        if parent:
            module = self._module(parent)
            return _search(name, () if module is None else module.folders)
        if self._path is not None:
            return _search(name, self._path)
        try:
            return importlib.util.find_spec(name)
        except ValueError:
            # A script that was started by its file's name.
            file = getattr(sys.modules[name], "__file__", None)
            return importlib.util.spec_from_file_location(name, file) if file else None


_CODE = Code()


@cache
def version(*used: Used) -> dict[str, Any]:
    """Give `Code.version` of the modules that Python finds; each file is read once in a process.

    Args:
        *used: Classes and functions, or their full names, in any order.

    Returns:
        Plain values, as `Code.version` returns them.

    Raises:
        InputError: For a name whose module has no file.
    """
    return _CODE.version(*used)


class _Module:
    """The source of a module by the names that it binds; the bytes of a compiled one."""

    def __init__(self, spec: ModuleSpec, code: Code) -> None:
        self.name = spec.name
        self.folders = list(spec.submodule_search_locations or ())
        """The folders in which its own modules are searched for, if it is a package."""
        self._package = spec.name if spec.submodule_search_locations is not None else spec.parent or ""
        self._code = code
        self._imports: dict[str, set[str]] = defaultdict(set)
        self._executed: dict[str, set[str]] = defaultdict(set)
        self._statements: dict[str, list[ast.stmt]] = defaultdict(list)
        self._nameless: list[ast.stmt] = []
        source = spec.loader.get_source(spec.name) if isinstance(spec.loader, InspectLoader) else None
        compiled = source is None and spec.origin is not None
        self._bytes = sha256(Path(str(spec.origin)).read_bytes()).hexdigest() if compiled else ""
        self._tree = ast.parse(source or "")
        for statement in self._tree.body:
            self._sort(statement)
        self._definitions: dict[str, tuple[str, set[str]]] = {}

    def _sort(self, statement: ast.stmt) -> None:
        match statement:
            case ast.Import() | ast.ImportFrom():
                for name, target, whole in self._targets(statement):
                    self._imports[name].add(target)
                    self._executed[name].add(whole)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                self._statements[name].append(statement)
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                self._statements[name].append(statement)
            case ast.If(test=ast.Name(id="TYPE_CHECKING"), orelse=[]):
                pass
            case _:
                self._nameless.append(statement)

    @property
    def names(self) -> set[str]:
        """The names that the module binds."""
        return {*self._imports, *self._statements}

    def hides(self, name: str) -> bool:
        """Whether the module binds `name` to something else than the module `name` within it."""
        inner = {f"{self.name}.{name}"}
        return name in self._statements or self._imports.get(name, inner) != inner

    def definition(self, name: str) -> tuple[str, set[str]]:
        """Read what binds `name`: its tree as text, and the full names that it mentions."""
        if name not in self._definitions:
            targets = self._imports.get(name, set())
            text, mentioned = self._read(self._statements.get(name, []))
            self._definitions[name] = f"{self.name} {name} {sorted(targets)} {text}", mentioned | targets
        return self._definitions[name]

    @cached_property
    def always(self) -> tuple[str, set[str]]:
        """The statements that count whenever the module is used: their trees as text, and the names in them."""
        acting = [one for all_of in self._statements.values() for one in all_of if any(map(self._own, _callers(one)))]
        text, mentioned = self._read([*self._nameless, *acting])
        exported = self._statements.get("__all__", [])
        listed = {node.value for one in exported for node in ast.walk(one) if isinstance(node, ast.Constant)}
        idle = _unmentioned(self._executed.keys() - listed, self._tree)
        unused = {target for name in idle for target in self._executed[name]}
        return f"{self.name} {self._bytes} {sorted(unused)} {text}", mentioned | unused

    def _own(self, name: str) -> bool:
        """Whether the name is of this module or of another one that is read as source."""
        tops = {target.partition(".")[0] for target in self._imports.get(name, ())}
        if not tops:
            return not hasattr(builtins, name)
        return any(not self._code.standard(top) and self._code.library(top) is None for top in tops)

    def _read(self, statements: list[ast.stmt]) -> tuple[str, set[str]]:
        words: list[str] = []
        names: set[str] = set()
        imports: list[ast.Import | ast.ImportFrom] = []
        texts: set[str] = set()
        _take(statements, words, names, imports, texts)
        # Imports within functions.
        inner: dict[str, set[str]] = defaultdict(set)
        heads = {name.partition(".")[0] for name in names}
        mentioned: set[str] = set()
        for node in imports:
            for name, target, whole in self._targets(node):
                inner[name].add(target)
                if name not in heads:
                    mentioned.add(whole)
        for name in names:
            head, dot, rest = name.partition(".")
            targets = self._imports.get(head, set())
            mentioned |= {f"{target}{dot}{rest}" for target in inner.get(head, set()) | targets}
            if head in self._statements:
                mentioned.add(f"{self.name}.{head}")
        mentioned |= {*self._named(texts)}
        # Two names that change places leave the rest of the tree as it is.
        words += [f"{head}={sorted(self._imports[head])}" for head in sorted(heads & self._imports.keys())]
        return " ".join(words), mentioned

    def _named(self, texts: Iterable[str]) -> Iterator[str]:
        """Those texts that are full names of modules that are read as source, or of something in one."""
        if self.name.partition(".")[0] == PACKAGE:
            return
        for name in texts:
            if name.startswith("."):
                with suppress(ImportError):
                    name = importlib.util.resolve_name(name, self._package)
            if _FULL_NAME.fullmatch(name) and self._code.source(name.partition(".")[0]):
                yield name

    def _targets(self, node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, str, str]]:
        """Each name that an import binds, the full name of what it is bound to, and of what the import executes."""
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                yield alias.asname or top, alias.name if alias.asname else top, alias.name
            return
        package = self._package.split(".")
        base = package[: len(package) - node.level + 1] if node.level else []
        base += [node.module] if node.module else []
        for alias in node.names:
            # Nobody knows the names behind a star: the whole module counts.
            target = ".".join(base if alias.name == "*" else [*base, alias.name])
            yield alias.asname or alias.name, target, target


def _search(name: str, folders: Iterable[str]) -> ModuleSpec | None:
    """Find a module without importing the packages above it, as Python's own search would."""
    parts: list[str] = []
    for folder in folders:
        finder = pkgutil.get_importer(folder)
        spec = None if finder is None else finder.find_spec(name)
        if spec is not None and spec.loader is not None:
            return spec
        parts += [] if spec is None else spec.submodule_search_locations or ()
    # A package without `__init__.py` lies in every folder of its name.
    found = ModuleSpec(name, None, is_package=True)
    found.submodule_search_locations = parts
    return found if parts else None


def _full_name(used: Used) -> str:
    return used if isinstance(used, str) else f"{used.__module__}.{used.__qualname__}"


def _installed(top: str) -> str | None:
    """The version of the distribution that has the module `top`; none where no distribution says that it has it."""
    try:
        return metadata.version(DISTRIBUTIONS.get(top, top))
    except metadata.PackageNotFoundError:
        names = sorted({*metadata.packages_distributions().get(top, ())})
        return " ".join(f"{name} {metadata.version(name)}" for name in names) or None


def _callers(statement: ast.stmt) -> Iterator[str]:
    """Names of functions and classes that a definition calls when its module is imported."""
    match statement:
        case ast.ClassDef(decorator_list=decorators, bases=bases, keywords=keywords):
            called = [*decorators, *bases, *(keyword.value for keyword in keywords)]
        case ast.FunctionDef(decorator_list=decorators) | ast.AsyncFunctionDef(decorator_list=decorators):
            called = decorators
        case ast.Assign(value=value) | ast.AnnAssign(value=ast.expr() as value):
            called = [node.func for node in ast.walk(value) if isinstance(node, ast.Call)]
        case _:
            called = []
    return (node.id for expression in called for node in ast.walk(expression) if isinstance(node, ast.Name))


def _take(
    node: Any, words: list[str], names: set[str], imports: list[ast.Import | ast.ImportFrom], texts: set[str]
) -> None:
    """Append the tree without docstrings, `pass` and empty fields to `words`; collect dotted names, imports and texts.

    `ast.dump` does not serve: its text changes between versions of Python.
    """
    kind = type(node)
    if kind is list:
        for item in node:
            if type(item) is not ast.Pass and not (type(item) is ast.Expr and type(item.value) is ast.Constant):
                _take(item, words, names, imports, texts)
        words.append(";")
    elif (kind is ast.Name or kind is ast.Attribute) and (dotted := _dotted(node)) is not None:
        names.add(dotted)
        words.append(dotted)
    elif not isinstance(node, ast.AST):
        words.append(repr(node))
    else:
        if isinstance(node, ast.Import | ast.ImportFrom):
            imports.append(node)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts.add(node.value)
        words.append(kind.__name__)
        values = vars(node)
        for field in kind._fields:
            value = values.get(field)
            # Whether a name is read or written follows from where it stands.
            if value is not None and value != [] and field != "ctx":
                words.append(field)
                _take(value, words, names, imports, texts)
        words.append(";")


def _unmentioned(names: Set[str], tree: ast.AST) -> set[str]:
    """Those of the names that no expression of the tree has."""
    left, nodes = {*names}, [tree]
    while nodes and left:
        node = nodes.pop()
        if type(node) is ast.Name:
            left.discard(node.id)
            continue
        values = vars(node)
        for field in node._fields:
            value = values.get(field)
            if type(value) is list:
                nodes += [item for item in value if isinstance(item, ast.AST)]
            elif field != "ctx" and isinstance(value, ast.AST):
                nodes.append(value)
    return left


def _dotted(node: ast.AST) -> str | None:
    """`a.b.c` for such an expression, and nothing for another one."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else None
