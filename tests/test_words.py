"""Words in the source: whatever is public is documented, in sentences that begin with their subject or their verb."""

import ast
import inspect
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "dua_lightning"
FILES = sorted(SOURCE.rglob("*.py"))
FRAGMENT = re.compile(r"(Of|What|Whose|As|Where|How) ")
SECTIONS = ("Args", "Attributes", "Returns", "Yields", "Raises")
HOOKS = re.compile(
    r"__\w+__|on_\w+|forward|\w+_step|\w+_dataloader|(load_)?state_dict|configure_optimizers|setup|teardown|prepare_data"
)
"""Methods whose parameters Lightning, torch, Hydra or Python itself documents."""

Function = ast.FunctionDef | ast.AsyncFunctionDef
Documented = Function | ast.ClassDef | ast.Module


def trees() -> list[tuple[str, ast.Module]]:
    return [(str(path.relative_to(ROOT)), ast.parse(path.read_text(encoding="utf-8"))) for path in FILES]


TREES = trees()
CLASSES = [node for _, tree in TREES for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]


def bases(node: ast.ClassDef) -> set[str]:
    return {ast.unparse(base).partition("[")[0].rpartition(".")[2] for base in node.bases}


def decorators(node: Function | ast.ClassDef) -> set[str]:
    return {ast.unparse(one).partition("(")[0].rpartition(".")[2] for one in node.decorator_list}


PROTOCOL_METHODS = {
    method.name
    for node in CLASSES
    if "Protocol" in bases(node)
    for method in node.body
    if isinstance(method, ast.FunctionDef)
}
PARENTS = {base for node in CLASSES for base in bases(node)}
INHERITED = PROTOCOL_METHODS | {
    method.name for node in CLASSES if node.name in PARENTS for method in node.body if isinstance(method, ast.FunctionDef)
}


def public(body: list[ast.stmt], path: str) -> Iterator[tuple[str, Function | ast.ClassDef]]:
    """Public functions, classes, and their public methods, with the places where they stand."""
    for node in body:
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            place = f"{path}:{node.lineno} {node.name}"
            yield place, node
            if isinstance(node, ast.ClassDef):
                yield from public(node.body, f"{path} {node.name}")


def sections(node: Documented) -> dict[str, str]:
    """The sections of a docstring in Google's style, each one's text by its title."""
    text = ast.get_docstring(node) or ""
    parts = re.split(rf"^({'|'.join(SECTIONS)}):\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def entries(text: str) -> list[str]:
    """The names that a section of arguments documents."""
    return re.findall(r"^    \*{0,2}(\w+)(?: \([^)]*\))?: ", text, flags=re.MULTILINE)


def parameters(node: Function) -> list[str]:
    arguments = node.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    every += [one for one in (arguments.vararg, arguments.kwarg) if one is not None]
    return [one.arg for one in every if one.arg not in ("self", "cls") and not one.arg.startswith("_")]


def fields(node: ast.ClassDef) -> list[str]:
    """What a class is made of: its constructor's parameters, or the fields that its body declares."""
    for one in node.body:
        if isinstance(one, ast.FunctionDef) and one.name == "__init__":
            return parameters(one)
    names = [one.target.id for one in node.body if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)]
    return [name for name in names if not name.startswith("_")]


def constants(body: list[ast.stmt]) -> Iterator[tuple[int, list[str], str | None]]:
    """Public constants and types; those that follow each other without an empty line share the text below them."""
    group: list[ast.stmt] = []
    for node, after in zip(body, [*body[1:], None], strict=True):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        names = [one.id for target in targets for one in ast.walk(target) if isinstance(one, ast.Name)]
        if not any(re.match("[A-Z]", name) for name in names):
            continue
        text = None
        while after is not None and isinstance(after, ast.Assign | ast.AnnAssign):
            place = body.index(after)
            if after.lineno != body[place - 1].end_lineno + 1:
                break
            after = body[place + 1] if place + 1 < len(body) else None
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
            text = after.value.value
        yield node.lineno, names, text


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Every docstring and every comment of a file, with its line; comments on lines of their own are one."""
    source = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, inspect.cleandoc(node.value.value)
    comments = [one for one in tokenize.generate_tokens(io.StringIO(source).readline) if one.type == tokenize.COMMENT]
    last = (-1, -1)
    for one in comments:
        continues = one.start == (last[0] + 1, last[1]) and one.line.strip().startswith("#")
        last = one.start
        if not continues:
            yield one.start[0], one.string.lstrip("# ")


def test_everything_public_has_a_docstring() -> None:
    missing = [path for path, tree in TREES if not ast.get_docstring(tree)]
    for path, tree in TREES:
        for place, node in public(tree.body, path):
            if not ast.get_docstring(node) and not HOOKS.fullmatch(node.name):
                missing.append(place)
        missing += [f"{path}:{line} {', '.join(names)}" for line, names, text in constants(tree.body) if not text]
    assert not missing, "\n".join(missing)


def test_arguments_are_documented_by_their_names() -> None:
    wrong = []
    for path, tree in TREES:
        for place, node in public(tree.body, path):
            said = sections(node)
            named = entries(said.get("Args", "") + said.get("Attributes", ""))
            if isinstance(node, ast.ClassDef):
                wanted = fields(node)
            elif node.name in PROTOCOL_METHODS or HOOKS.fullmatch(node.name):
                continue
            else:
                wanted = parameters(node)
            if not set(wanted) <= set(named) if isinstance(node, ast.ClassDef) else wanted != named:
                wrong.append(f"{place}: has {wanted}, documents {named}")
    assert not wrong, "\n".join(wrong)


def test_returned_values_are_documented() -> None:
    wrong = []
    for path, tree in TREES:
        for place, node in public(tree.body, path):
            if isinstance(node, ast.ClassDef) or decorators(node) & {"property", "cached_property"}:
                continue
            if node.name in PROTOCOL_METHODS or HOOKS.fullmatch(node.name) or node.returns is None:
                continue
            nothing = ast.unparse(node.returns) in ("None", "NoReturn")
            told = {"Returns", "Yields"} & sections(node).keys()
            if bool(told) == nothing and ast.unparse(node.returns) != "Iterator[None]":
                wrong.append(f"{place}: returns {ast.unparse(node.returns)}, documents {sorted(told)}")
    assert not wrong, "\n".join(wrong)


def test_docstrings_and_comments_are_no_fragments() -> None:
    wrong = []
    for path in FILES:
        wrong += [f"{path.relative_to(ROOT)}:{line} {text.splitlines()[0]}" for line, text in texts(path) if text and FRAGMENT.match(text)]
    assert not wrong, "\n".join(wrong)
