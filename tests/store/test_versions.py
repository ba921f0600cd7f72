"""The version of code changes with all that can change a result, and with nothing else."""

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from importlib import metadata
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from textwrap import dedent

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dua_lightning.data import corrupted, decode
from dua_lightning.data.images import images
from dua_lightning.store import versions
from dua_lightning.store.versions import HARMLESS, Code, version
from tests.test_imports import ROOT

EXPERTS = ("dua_lightning.server.train_experts", "dua_lightning.nets.mlp", "dua_lightning.regularise.EWC")
RESULTS = ("dua_lightning.user.evaluate", "dua_lightning.merge.Mode", "dua_lightning.adapt.Finetune")
PIXELS = ("dua_lightning.data.corrupted.Corrupted", "dua_lightning.data.decode.decode")
EVERYTHING = (*EXPERTS, *RESULTS, *PIXELS)

REACHED = {
    "server.py": ("train_experts", EXPERTS[0]),
    "training/fit.py": ("fit", EXPERTS[0]),
    "nets/perceptron.py": ("mlp", EXPERTS[1]),
    "regularise/quadratic.py": ("QuadraticPenalty", EXPERTS[2]),
    "user.py": ("evaluate", RESULTS[0]),
    "evaluation.py": ("accuracy", RESULTS[0]),
    "params.py": ("fitted", RESULTS[0]),
    "merge/mode.py": ("Mode", RESULTS[1]),
    "adapt/finetune.py": ("descend", RESULTS[2]),
    "streams.py": ("derive", RESULTS[2]),
    "data/corruptions.py": ("_elastic", PIXELS[0]),
    "data/decode.py": ("_square", PIXELS[1]),
}
"""Files of the package, one definition in each, and what uses it, mostly through others."""

many = settings(max_examples=30, deadline=None, derandomize=True, database=None)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package that may be changed."""
    return Path(shutil.copytree(ROOT, tmp_path_factory.mktemp("copy") / "dua_lightning"))


def of_copy(package: Path, *used: str) -> dict[str, object]:
    return Code([str(package.parent), *sys.path]).version(*used)


@cache
def before(used: str) -> dict[str, object]:
    return Code().version(used)


def changed(package: Path, name: str, text: str) -> bool:
    """Whether another text of one file, which is restored, is another version of what uses it."""
    file, (_, used) = package / name, REACHED[name]
    old = file.read_text()
    file.write_text(text)
    try:
        return of_copy(package, used) != before(used)
    finally:
        file.write_text(old)


def test_a_copy_has_the_version_of_what_it_is_a_copy_of(package: Path) -> None:
    assert of_copy(package, *EVERYTHING) == version(*EVERYTHING)


words = st.text("abc'\\#: 1\t", max_size=20)


@many
@given(st.sampled_from(sorted(REACHED)), st.data())
def test_comments_docstrings_and_layout_leave_the_version(package: Path, name: str, data: st.DataObject) -> None:
    text = (package / name).read_text()
    if data.draw(st.booleans(), "written anew from its tree"):
        text = ast.unparse(ast.parse(text))
    text = with_docstrings(text, data)
    lines = text.splitlines()
    # A line may stand before any statement, whatever its indent.
    starts = sorted({node.lineno - 1 for node in ast.walk(ast.parse(text)) if isinstance(node, ast.stmt)})
    for start in sorted(
        data.draw(st.lists(st.sampled_from(starts), min_size=1, max_size=5, unique=True)), reverse=True
    ):
        if not lines[start - 1].lstrip().startswith("@"):
            lines.insert(start, data.draw(st.just("") | words.map(lambda words: f"  # {words}")))
    assert not changed(package, name, "\n".join(lines) + "\n")


def with_docstrings(text: str, data: st.DataObject) -> str:
    """The text with other docstrings of the module and of some classes and functions."""
    tree = ast.parse(text)
    owners = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module)]
    for node in data.draw(st.lists(st.sampled_from(owners), max_size=3, unique_by=id)):
        if ast.get_docstring(node) is not None:
            node.body.pop(0)
        node.body.insert(0, ast.Expr(ast.Constant(data.draw(words))))
    return ast.unparse(ast.fix_missing_locations(tree)) if tree.body and data.draw(st.booleans()) else text


PAIRS = (
    *((ast.Add, ast.Sub), (ast.Mult, ast.Div), (ast.FloorDiv, ast.Pow), (ast.Lt, ast.LtE), (ast.Gt, ast.GtE)),
    *((ast.Eq, ast.NotEq), (ast.Is, ast.IsNot), (ast.In, ast.NotIn), (ast.And, ast.Or)),
)
SWAPS = {one: other for pair in PAIRS for one, other in (pair, pair[::-1])}


def changes(definition: ast.stmt) -> list[Callable[[], None]]:
    """Each changes one constant or operator of the definition."""
    found: list[Callable[[], None]] = []
    for node in ast.walk(definition):
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            found.append(lambda node=node: setattr(node, "value", node.value + 1))
        if isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in SWAPS:
            found.append(lambda node=node: setattr(node, "op", SWAPS[type(node.op)]()))
        if isinstance(node, ast.Compare):
            found.append(lambda node=node: setattr(node, "ops", [SWAPS[type(op)]() for op in node.ops]))
    return found


@many
@given(st.sampled_from(sorted(REACHED)), st.data())
def test_another_constant_or_operator_is_another_version(package: Path, name: str, data: st.DataObject) -> None:
    tree = ast.parse((package / name).read_text())
    (definition,) = (node for node in tree.body if getattr(node, "name", "") == REACHED[name][0])
    data.draw(st.sampled_from(changes(definition)))()
    assert changed(package, name, ast.unparse(tree))


def test_new_files_and_definitions_that_nobody_uses_leave_the_version(package: Path) -> None:
    for folder in ("", "adapt", "merge", "regularise"):
        (package / folder / "newcomer.py").write_text("import torch\n\ntorch.manual_seed(1)\n")
    try:
        for name in REACHED:
            newcomer = "\n\ndef newcomer(x: float) -> float:\n    return 2 * x\n"
            assert not changed(package, name, (package / name).read_text() + newcomer)
    finally:
        for file in package.rglob("newcomer.py"):
            file.unlink()


def test_what_stands_beside_what_is_used_leaves_the_version(package: Path) -> None:
    """Other merges and adaptations do not matter to a merge, and what is done for users does not to an expert."""
    for name in ("merge/each.py", "merge/last.py", "adapt/adabn.py", "adapt/finetune.py", "evaluation.py", "user.py"):
        (package / name).write_text(f"{(package / name).read_text()}\nraise SystemExit\n")
    try:
        assert of_copy(package, *EXPERTS) == version(*EXPERTS)
        assert of_copy(package, RESULTS[1]) == before(RESULTS[1])
        assert of_copy(package, RESULTS[2]) != before(RESULTS[2])
    finally:
        shutil.copytree(ROOT, package, dirs_exist_ok=True)


WAYS = {
    "from mine.deep.helpers import helped": "helped()",
    "from .deep.helpers import helped": "helped()",
    "from .deep.helpers import helped as other": "other()",
    "from .deep import helpers": "helpers.helped()",
    "from . import deep": "deep.helpers.helped()",
    "from .deep.helpers import *": "helped()",
    "import mine.deep.helpers": "mine.deep.helpers.helped()",
    "import mine.deep.helpers as other": "other.helped()",
    "from mine.deep import helpers as other": "getattr(other, 'hel' + 'ped')()",
    "try:\n    from mine.deep.helpers import helped\nexcept ImportError:\n    helped = None": "helped()",
    "if True:\n    import mine.deep.helpers as other": "other.helped()",
    "from mine.deep.helpers import helped\n\nTABLE = {1: [helped]}": "TABLE[1][0]()",
    "from mine.deep import helpers\n\nother = helpers": "other.helped()",
    "from functools import partial\nfrom .deep.helpers import helped\n\nready = partial(helped)": "ready()",
    "import importlib": "importlib.import_module('mine.deep.helpers').helped()",
    "from importlib import import_module": "import_module('.deep.helpers', __package__).helped()",
    "from importlib import import_module\n\nother = import_module('mine.deep.helpers')": "other.helped()",
    "from hydra.utils import instantiate": "instantiate({'_target_': 'mine.deep.helpers.helped'})",
    "": "__import__('mine.deep.helpers', fromlist=['helped']).helped()",
}
"""Ways in which a module may get at `helped`, and how its class then uses it."""


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., dict[str, object]]:
    """Writes modules and returns the version of `mine.methods.Method`."""

    def written(**texts: str) -> dict[str, object]:
        for name, text in texts.items():
            file = tmp_path.joinpath(*name.split("__")).with_suffix(".py")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(dedent(text))
        return Code([str(tmp_path), *sys.path]).version("mine.methods.Method")

    return written


Write = Callable[..., dict[str, object]]


def method(imports: str, use: str, inside: bool = False) -> str:
    place = [f"        {line}" for line in imports.splitlines()] if inside else []
    lines = [*([] if inside else [imports]), "class Method:", "    def run(self):", *place, f"        return {use}"]
    return "\n".join([*lines, ""])


@pytest.mark.parametrize(
    ("imports", "inside"), [(way, inside) for way in WAYS for inside in (False, True) if not (inside and "*" in way)]
)
def test_a_helper_counts_however_it_is_imported(write: Write, imports: str, inside: bool) -> None:
    text = method(imports, WAYS[imports], inside)
    compile(text, "mine/methods.py", "exec")
    helpers = "from .constants import RATE\n\ndef helped():\n    return RATE\n\ndef unused():\n    return {}\n"
    same = {"mine__methods": text, "mine__deep__constants": "RATE = 1", "mine__deep__helpers": helpers.format(1)}
    before = write(**same)
    assert write(mine__deep__constants="'''How fast.'''\nRATE = (1)  # a comment") == before
    assert write(mine__deep__constants="RATE = 2") != before
    write(**same)
    assert write(mine__deep__helpers=helpers.format(1).replace("return RATE", "return -RATE")) != before


@pytest.mark.parametrize("name", ["statistics", "json", "this"])
def test_a_module_counts_though_one_of_pythons_has_its_name(write: Write, name: str) -> None:
    before = write(**{"mine__methods": method(f"import {name} as other", "other.f()"), name: "def f():\n    return 1"})
    assert write(**{name: "def f():\n    return 2"}) != before
    assert write(**{name: "def f():\n    return (1)  # a comment"}) == before


def test_a_text_that_only_looks_like_a_name_does_not_count(write: Write) -> None:
    before = write(
        mine__methods=method("", "'mean', 'other.mean', '..', '.', 'json.decoder', 'torch.nn', 'a b', 'é.x'")
    )
    assert before["libraries"] == {}
    assert write(other="mean = 1") != before


REGISTRIES = {
    "a decorator": "@register\ndef rule():\n    return 1",
    "an attribute's decorator": "@TABLE.append\ndef rule():\n    return 1",
    "a subclass": "class Rule(Base):\n    value = 1",
    "a keyword of a class": "class Rule(metaclass=Meta):\n    value = 1",
    "an entry": "TABLE['rule'] = 1",
    "a call": "register(1)",
    "a name for a call": "rule = register(1)",
    "a loop": "for value in (1,):\n    register(value)",
    "a module": "import mine.rules",
    "a name of a module": "from mine import rules",
    "a name in a module": "from mine.rules import rule",
}


@pytest.mark.parametrize("acting", REGISTRIES)
def test_what_a_module_does_when_it_is_imported_counts(write: Write, acting: str) -> None:
    table = "TABLE = []\nregister = TABLE.append\n\nclass Base:\n    pass\n\nclass Meta(type):\n    pass\n"
    text = method("from mine.tables import TABLE, Base, Meta, register\n", "TABLE")
    before = write(mine__tables=table, mine__rules="rule = 1", mine__methods=f"{text}\n{REGISTRIES[acting]}\n")
    changed = REGISTRIES[acting].replace("1", "2")
    assert write(mine__methods=f"{text}\n{changed}\n", mine__rules="rule = 2") != before


UNUSED = {
    "a function": "def unused():\n    return 1",
    "a class": "class Unused(Exception):\n    value = 1",
    "a class that Python's own decorator makes": "@dataclass\nclass Unused:\n    value: int = 1",
    "a constant": "UNUSED = 1",
    "an import for annotations": "if TYPE_CHECKING:\n    from mine.rules import rule1",
}


@pytest.mark.parametrize("unused", UNUSED)
def test_what_nobody_uses_does_not_count(write: Write, unused: str) -> None:
    text = method("from dataclasses import dataclass\nfrom typing import TYPE_CHECKING\n", "1")
    before = write(mine__methods=f"{text}\n@dataclass\nclass A:\n    a: 'rule1' = 0\n\n{UNUSED[unused]}\n")
    changed = UNUSED[unused].replace("1", "2")
    assert write(mine__methods=f"{text}\n@dataclass\nclass A:\n    a: 'rule1' = 0\n\n{changed}\n") == before


def test_two_names_that_change_places_are_another_version(write: Write) -> None:
    imports = "from mine.helpers import one as {}, two as {}"
    before = write(mine__helpers="one = 1\ntwo = 2", mine__methods=method(imports.format("a", "b"), "a - b"))
    assert write(mine__methods=method(imports.format("b", "a"), "a - b")) != before


def test_a_compiled_module_counts_with_its_bytes(write: Write, tmp_path: Path) -> None:
    write(mine__methods=method("from mine.fast import f", "f()"))
    compiled = tmp_path / "mine" / f"fast{EXTENSION_SUFFIXES[0]}"
    compiled.write_bytes(b"one")
    before = write()
    assert write() == before
    compiled.write_bytes(b"two")
    assert write() != before


def test_a_module_that_is_missing_counts_when_it_is_there(write: Write) -> None:
    text = "try:\n    import faster\nexcept ImportError:\n    faster = None\n"
    before = write(mine__methods=method(text, "faster"))
    assert write(faster="speed = 1") != before


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Installs a distribution whose module has another name."""
    place = tmp_path / "site-packages"

    def install(number: str, text: str) -> None:
        shutil.rmtree(place, ignore_errors=True)
        about = place / f"Their_Library-{number}.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: Their-Library\nVersion: {number}\n")
        (about / "top_level.txt").write_text("theirs\n")
        (place / "theirs.py").write_text(text)

    install("1.0", "x = 1")
    monkeypatch.syspath_prepend(place)
    return install


def test_an_installed_library_counts_with_its_version(write: Write, installed: Callable[[str, str], None]) -> None:
    before = write(mine__methods=method("import theirs", "theirs.x"))
    assert before["libraries"] == {"theirs": "Their-Library 1.0"}
    installed("1.0", "x = 2")
    assert write() == before
    installed("1.1", "x = 2")
    assert write() == {**before, "libraries": {"theirs": "Their-Library 1.1"}}


USERS = {
    "torch": (EXPERTS[1], RESULTS[1], PIXELS[0]),
    "lightning": EXPERTS[:1],
    "numba": RESULTS[1:2],
    "numpy": (RESULTS[1], *PIXELS),
    "torchvision": ("dua_lightning.nets.vgg11", "dua_lightning.data.numbers.numbers"),
    "scipy": PIXELS[:1],
    "cv2": PIXELS[:1],
    "PIL": PIXELS,
}
"""Libraries that shape pixels and sums, and what uses them."""


@pytest.mark.parametrize(("library", "used"), [(library, one) for library, users in USERS.items() for one in users])
def test_another_version_of_a_library_is_another_version_of_what_uses_it(
    monkeypatch: pytest.MonkeyPatch, library: str, used: str
) -> None:
    before, found = Code().version(used), metadata.version
    distribution = versions.DISTRIBUTIONS.get(library, library)
    assert before["libraries"][library] == found(distribution)
    monkeypatch.setattr(metadata, "version", lambda name: "0.0" if name == distribution else found(name))
    assert Code().version(used) != before
    assert Code().version(used)["code"] == before["code"]


@pytest.mark.parametrize(("library", "decoded", "transformed"), [("pillow", True, True), ("scipy", False, True)])
def test_pictures_of_another_library_are_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str, decoded: bool, transformed: bool
) -> None:
    picture, number = tmp_path / "a.png", torch.zeros(1, dtype=torch.int64)
    Image.new("RGB", (4, 4)).save(picture)
    plain = images(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), number, number, 0.5, 0.5)

    def made() -> tuple[int, str]:
        for module in (decode, corrupted):
            monkeypatch.setattr(module, "version", Code().version)
        decode.decoded([picture], tmp_path, 4, tmp_path / "cache", upright=False, skip_unreadable=False)
        seen = corrupted.seen_through("jpeg", plain, 3, "paper", 1, "user")
        return len([*tmp_path.glob("cache/*.npy")]), seen.digest()

    count, digest = made()
    assert made() == (count, digest)
    found = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "0.0" if name == library else found(name))
    after, other = made()
    assert (after > count, other != digest) == (decoded, transformed)


def test_an_expert_does_not_depend_on_what_reads_pictures() -> None:
    assert not {"PIL", "cv2", "scipy", "torchvision", "rich", "filelock"} & Code().version(*EXPERTS)["libraries"].keys()


def test_the_version_is_the_same_in_every_process_and_in_every_order() -> None:
    code = f"from dua_lightning.store.versions import version; print(repr(version(*{EVERYTHING})))"
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in range(3)
    }
    assert printed == {repr(version(*reversed(EVERYTHING)))}


def test_a_version_needs_no_torch_and_imports_nothing() -> None:
    code = (
        "import sys; from dua_lightning.store.versions import version; "
        f"version(*{EVERYTHING}); print(sorted({{'torch', 'lightning', 'dua_lightning.server'}} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("place", ["a script", "nowhere"])
def test_a_class_of_a_script_counts_and_one_of_no_file_is_refused(tmp_path: Path, place: str) -> None:
    mine = "class Mine:\n    rate = 1\n"
    code = f"from dua_lightning.store.versions import version\n{mine}print(version(Mine)['code'])\n"
    script = tmp_path / "script.py"

    def printed(text: str) -> str:
        script.write_text(text)
        arguments = [str(script)] if place == "a script" else ["-c", text]
        done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
        return done.stdout if done.returncode == 0 else done.stderr.splitlines()[-1]

    if place == "nowhere":
        assert "put it into a module" in printed(code)
    else:
        assert len({printed(code), printed(f"# A comment.\n{code}"), printed(code.replace("= 1", "= 2"))}) == 2


def harmless() -> Iterator[Path]:
    for room in HARMLESS:
        yield from sorted((ROOT.parent / room.replace(".", "/")).rglob("*.py"))


@pytest.mark.parametrize("file", [*harmless()], ids=lambda file: file.name)
def test_a_harmless_room_cannot_compute(file: Path) -> None:
    """It knows types and versions of torch and numpy, and how to look at bytes, but no function that makes numbers."""
    allowed = {"torch.uint8", "torch.__version__", "np.uint8", "np.lib.format.open_memmap"}
    tree = ast.parse(file.read_text())
    imported = {
        (module, alias.name, alias.asname)
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for module in [getattr(node, "module", None) or ""]
        for alias in node.names
        if {"torch", "numpy", "scipy"} & {module.partition(".")[0], alias.name.partition(".")[0]}
    }
    assert imported <= {("", "torch", None), ("", "numpy", "np"), ("torch", "Tensor", None)}
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    chains = {ast.unparse(node) for node in nodes}
    inner = {ast.unparse(node.value) for node in nodes}
    assert {chain for chain in chains - inner if chain.startswith(("torch.", "np."))} <= allowed
