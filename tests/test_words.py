"""Words in the source: everything public is documented, and no docstring or comment is a fragment of a sentence."""

import ast
import inspect
import io
import re
import tokenize
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src" / "dua_lightning").rglob("*.py"))
PROGRAMS = sorted(
    path for room in ("src", "tests", "benchmarks", "experiments") for path in (ROOT / room).rglob("*.py")
)
SETTINGS = sorted((ROOT / "conf").rglob("*.yaml"))

FRAGMENT = re.compile(r"(Of|What|Whose|As|Where|How) ")
SECTION = re.compile(r"^(Args|Attributes|Returns|Yields|Raises):\n", re.MULTILINE)
ENTRY = re.compile(r"^    \*{0,2}(\w+): ", re.MULTILINE)
HOOK = re.compile(
    r"on_\w+|forward|\w+_step|\w+_dataloader|(load_)?state_dict|configure_\w+|setup|teardown|transfer_batch_to_device"
    r"|log_metrics|log_hyperparams"
)
"""Methods that Lightning and torch call, and document."""

Function = ast.FunctionDef | ast.AsyncFunctionDef
Object = Function | ast.ClassDef

TREES = {str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}
CLASSES = [node for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]


def last_names(nodes: list[ast.expr]) -> set[str]:
    """`B` for `a.B`, `B[int]` and `B()`."""
    return {re.split(r"[\[(]", ast.unparse(node))[0].rpartition(".")[2] for node in nodes}


def is_interface(node: ast.ClassDef) -> bool:
    """Whether classes that implement it need not say again what its methods do: a protocol or an abstract class."""
    abstract = (
        one for one in node.body if isinstance(one, Function) and "abstractmethod" in last_names(one.decorator_list)
    )
    return "Protocol" in last_names(node.bases) or any(abstract)


DESCRIBED = {one.name for node in CLASSES if is_interface(node) for one in node.body if isinstance(one, Function)}


def public(body: list[ast.stmt], path: str) -> Iterator[tuple[str, Object]]:
    """Public functions, classes and methods, without methods that are described elsewhere, and where they stand."""
    for node in body:
        if isinstance(node, Object) and not node.name.startswith("_"):
            yield f"{path}:{node.lineno} {node.name}", node
            if isinstance(node, ast.ClassDef):
                described = set() if is_interface(node) else DESCRIBED
                methods = public(node.body, f"{path}:{node.lineno} {node.name}")
                yield from ((p, m) for p, m in methods if m.name not in described and not HOOK.fullmatch(m.name))


PUBLIC = dict(chain.from_iterable(public(tree.body, path) for path, tree in TREES.items()))


def sections(node: Object) -> dict[str, str]:
    """The sections of a docstring in Google's style, each one's text by its title."""
    parts = SECTION.split(ast.get_docstring(node) or "")
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def parameters(node: Function) -> list[str]:
    given = node.args
    several = [one for one in (given.vararg, given.kwarg) if one is not None]
    names = [one.arg for one in [*given.posonlyargs, *given.args, *given.kwonlyargs, *several]]
    return [name for name in names if name not in ("self", "cls") and not name.startswith("_")]


def fields(node: ast.ClassDef) -> list[str]:
    """The constructor's parameters, or the fields that the body declares."""
    for one in node.body:
        if isinstance(one, ast.FunctionDef) and one.name == "__init__":
            return parameters(one)
    declared = [one for one in node.body if isinstance(one, ast.AnnAssign) and "ClassVar" not in ast.unparse(one)]
    return [one.target.id for one in declared if isinstance(one.target, ast.Name)]


def undocumented(body: list[ast.stmt]) -> Iterator[int]:
    """Lines of public constants and types without a text; those in consecutive lines share the text below them."""
    for node, after in zip(body, [*body[1:], None], strict=True):
        if not isinstance(node, ast.Assign | ast.AnnAssign):
            continue
        names = [one.id for one in ast.walk(node) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)]
        in_group = isinstance(after, ast.Assign | ast.AnnAssign) and after.lineno == (node.end_lineno or 0) + 1
        if any(name[0].isupper() for name in names) and not in_group and not is_text(after):
            yield node.lineno


def is_text(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def docstrings(source: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and is_text(node):
            yield node.lineno, inspect.cleandoc(ast.literal_eval(node.value))


def comments(source: str) -> Iterator[tuple[int, str]]:
    """The comments of a Python file; lines that follow each other are one."""
    end = (-1, -1)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            if token.start != (end[0] + 1, end[1]):
                yield token.start[0], token.string.lstrip("# ")
            end = token.start


def test_everything_public_has_a_docstring() -> None:
    missing = [path for path, tree in TREES.items() if not ast.get_docstring(tree)]
    missing += [place for place, node in PUBLIC.items() if not ast.get_docstring(node)]
    missing += [f"{path}:{line}" for path, tree in TREES.items() for line in undocumented(tree.body)]
    assert not missing, "\n".join(missing)


def test_arguments_are_documented_by_their_names() -> None:
    wrong = []
    for place, node in PUBLIC.items():
        told = sections(node)
        named = ENTRY.findall(told.get("Args", "") + told.get("Attributes", ""))
        asked = fields(node) if isinstance(node, ast.ClassDef) else parameters(node)
        # A class may have attributes besides.
        if named[: len(asked)] != asked or (len(named) > len(asked) and "Attributes" not in told):
            wrong.append(f"{place} has {asked} and documents {named}")
    assert not wrong, "\n".join(wrong)


def test_returned_values_are_documented() -> None:
    wrong = []
    for place, node in PUBLIC.items():
        if isinstance(node, ast.ClassDef) or last_names(node.decorator_list) & {"property", "cached_property"}:
            continue
        returned = "None" if node.returns is None else ast.unparse(node.returns)
        told = not {"Returns", "Yields"}.isdisjoint(sections(node))
        if told == (returned in ("None", "NoReturn", "Iterator[None]")):
            wrong.append(f"{place} returns {returned}")
    assert not wrong, "\n".join(wrong)


def test_no_docstring_and_no_comment_is_a_fragment() -> None:
    wrong = []
    for path in PROGRAMS:
        source = path.read_text(encoding="utf-8")
        found = chain(docstrings(source), comments(source))
        wrong += [f"{path.relative_to(ROOT)}:{line} {text}" for line, text in found if FRAGMENT.match(text)]
    assert not wrong, "\n".join(wrong)


def test_no_comment_on_settings_is_a_fragment() -> None:
    lines = [line for path in SETTINGS for line in path.read_text(encoding="utf-8").splitlines()]
    texts = [line.partition("# ")[2] for line in lines if "# " in line]
    assert texts
    assert not [text for text in texts if FRAGMENT.match(text.capitalize())]


def test_the_rules_see_faults() -> None:
    """Every rule above finds what is wrong here."""
    function = 'def f(x: int) -> int:\n    """Of x.\n\n    Args:\n        y: No.\n    """\n'
    source = f'A = 1\n\nB = 2\nC = 3\n"""Two."""\n\n\n{function}'
    tree = ast.parse(source)
    ((_, node),) = public(tree.body, "")
    assert isinstance(node, ast.FunctionDef)
    assert [*undocumented(tree.body)] == [1]
    assert (parameters(node), ENTRY.findall(sections(node)["Args"])) == (["x"], ["y"])
    assert [bool(FRAGMENT.match(text)) for _, text in docstrings(source)] == [False, True]
    assert [*comments("# One\n# line.\nx = 1  # Two\n")] == [(1, "One"), (3, "Two")]
