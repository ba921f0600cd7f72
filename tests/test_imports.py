"""The floors of the house: who may import whom, and what a library user loads."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import dua_lightning
from tests.report import folders

ROOT = Path(dua_lightning.__file__).parent

# From the ground up, as docs/architecture.md draws them; a room imports only from rooms before it in this list.
STAIRS = (
    *("errors", "progress", "streams", "params", "tasks", "metrics"),
    *("store", "kernels", "nets", "data"),
    *("importance", "adapt", "merge", "regularise", "training"),
    *("evaluation", "server", "user", "privacy", "engines"),
    *("report", "run", "personal", "federation", "commands", "__main__"),
)
# Packages that live in some rooms only.
TENANTS = {
    "hydra": {"run", "__main__"},
    "omegaconf": {"run", "commands.store", "__main__"},
    "lightning": {"data.server", "data.user", "regularise", "training", "report", "run"},
    "wandb": {"report.dashboard", "report.loggers"},
    "wandb_workspaces": {"report.dashboard"},
    "matplotlib": {"report.figures", "report.fonts", "report.loggers"},
    "loky": {"engines.loky"},
    "ray": {"engines.ray", "engines.flower"},
    "onnxruntime": {"personal.graphs"},
    "onnx_ir": {"personal.graphs"},
    "executorch": {"personal.formats"},
    "cryptography": {"federation.keys", "federation.superlink", "privacy.keys"},
    "flwr": {"engines.flower", "federation.flower", "federation.superlink", "federation.supernode"},
    "rich": {"progress", "report", "run.pipeline", "run.sweep", "commands"},
}


@cache
def imports() -> dict[str, set[str]]:
    """Dotted module within the package -> full names of the modules it imports, also inside functions."""
    found: dict[str, set[str]] = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        module = ".".join(part for part in parts if part != "__init__")
        names: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path} imports relatively"
                names.add(node.module)
                # `from package import module` names a module as well.
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
        found[module] = names
    return found


def own(module: str) -> set[str]:
    """Modules of the package that `module` imports directly, as dotted names within it."""
    known = imports()
    names = (name.removeprefix("dua_lightning.") for name in known[module] if name.startswith("dua_lightning."))
    return {name for name in names if name in known}


def room(module: str) -> str:
    return module.partition(".")[0]


def test_every_room_has_its_place_on_the_stairs() -> None:
    assert {room(module) for module in imports() if module} == set(STAIRS)


@pytest.mark.parametrize("module", sorted(m for m in imports() if m))
def test_a_room_imports_only_from_below(module: str) -> None:
    for other in own(module):
        assert room(other) == room(module) or STAIRS.index(room(other)) < STAIRS.index(room(module)), other


def test_no_module_imports_itself_through_others() -> None:
    TopologicalSorter({module: own(module) - {module} for module in imports()}).prepare()


@pytest.mark.parametrize("package", TENANTS)
def test_a_package_lives_in_its_rooms(package: str) -> None:
    users = {m for m, names in imports().items() if any(n.partition(".")[0] == package for n in names)}
    assert users, f"nothing imports {package}"
    assert all(any(m == home or m.startswith(f"{home}.") for home in TENANTS[package]) for m in users), users


def reached(module: str) -> set[str]:
    """The module and all that it imports, also through others."""
    found, frontier = set(), {module}
    while frontier:
        found |= frontier
        frontier = {other for m in frontier for other in own(m)} - found
    return found


SERVER_SIDE = ("server", "training", "merge", "regularise", "importance")


@pytest.mark.parametrize("module", sorted(m for m in imports() if room(m) in SERVER_SIDE))
def test_the_server_side_never_reaches_a_users_data(module: str) -> None:
    """It sees nothing of `data` but the modules that make the server's own data, and they make no user's."""
    servers = reached("data.server")
    assert not servers & {"user", "data.user", "data.pool"}
    assert {m for m in reached(module) if room(m) in ("data", "user")} <= servers


def test_a_device_and_a_library_user_load_torch_alone() -> None:
    code = (
        "import sys, dua_lightning.importance, dua_lightning.merge, dua_lightning.adapt, dua_lightning.evaluation\n"
        "rest = ('lightning', 'hydra', 'omegaconf', 'wandb', 'pandas', 'torchvision', 'numba')\n"
        "print([p for p in rest if p in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


SLOW = {"torch", "lightning", "torchmetrics", "torchvision", "pandas", "scipy", "matplotlib", "sklearn", "numba"}

ARGUMENTS = {
    "help": (("--help",), ()),
    "version": (("--version",), ()),
    "an unknown choice": (("adapt=x",), ()),
    "a number of threads": (("threads=0",), ()),
    "a seed": (("seed=x",), ()),
    "a setting of a verb": (("adapt=finetune", "adapt.lr=-1"), ("torch",)),
    "verbs that do not go together": (("method=ewc", "merge=mode"), ("torch",)),
    "an adaptation that the network cannot have": (("adapt=adabn", "data=transprior"), ("torch",)),
    "a network": (("model.width=0",), ("torch",)),
    "a number of tasks": (("data=digits", "data.tasks=0"), ("torch",)),
    "a number of users": (("data=catprior", "data.users=0"), ("torch",)),
    "an engine": (("engine=loky", "engine.workers=0"), ("torch",)),
    "a device": (("trainer.accelerator=nothing",), ("torch",)),
}


FORKED = """
import json, os, sys
from importlib import import_module
commands, first, slow = json.loads(sys.argv.pop())
for name in first:
    import_module(name)
from dua_lightning.__main__ import main
for place, arguments in enumerate(commands):
    if not (child := os.fork()):
        for stream, path in ((1, os.devnull), (2, str(place))):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream)
        sys.argv[1:] = arguments
        try:
            main()
        finally:
            print(sorted({*sys.modules} & {*slow}), file=sys.stderr)
        sys.exit()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def loaded(commands: Sequence[Sequence[str]], first: Sequence[str], folder: Path) -> list[tuple[int, list[str], str]]:
    """Command lines in processes of their own, forked from one that has loaded `first` and nothing else that is slow.

    Returns:
        For each its status, its lines of errors, and the slow packages that were loaded when it ended.
    """
    given = json.dumps([commands, first, [*SLOW]])
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", FORKED, given], capture_output=True, text=True, cwd=folder, env=environment, check=True
    )
    ends = []
    for place, status in enumerate(done.stdout.split()):
        *said, packages = (folder / str(place)).read_text().splitlines()
        ends.append((int(status), said, packages))
    return ends


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, list[str], str]]:
    """The end of each of the command lines, where those that may load torch find it loaded."""
    found = {}
    for allowed in {allowed for _, allowed in ARGUMENTS.values()}:
        cases = [case for case, of in ARGUMENTS.items() if of[1] == allowed]
        folder = tmp_path_factory.mktemp("out")
        commands = [
            [*of, *(() if of[0].startswith("--") else (f"paths.output_dir={folder / 'run'}",))]
            for of, _ in (ARGUMENTS[case] for case in cases)
        ]
        found.update(zip(cases, loaded(commands, ["hydra", *allowed], folder), strict=True))
    return found


@pytest.mark.parametrize("case", ARGUMENTS)
def test_help_version_and_a_wrong_setting_load_no_more_than_they_need(
    case: str, ends: dict[str, tuple[int, list[str], str]]
) -> None:
    """The packages that are loaded when it ends; each of them takes longer than all that help does."""
    arguments, allowed = ARGUMENTS[case]
    status, said, packages = ends[case]
    assert packages == str(list(allowed))
    assert (status, len(said)) == ((0, 0) if arguments[0].startswith("--") else (2, 1)), said


def test_reading_results_needs_neither_torch_nor_lightning(tmp_path: Path) -> None:
    """They take four seconds to load."""
    for name in ("a", "b"):
        folders.run(tmp_path / name)
    drawing, reading = ["matplotlib", "pandas", "scipy"], ["pandas", "scipy"]
    expected = [(0, [], str(packages)) for packages in (reading, drawing, drawing)]
    assert loaded([["compare", "a", "b"], ["report", "a"], ["ledger", "a"]], reading, tmp_path) == expected
