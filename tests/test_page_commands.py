"""The commands of pages are true: each of them can be followed, and those on finished runs run."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from runpy import run_path
from typing import NoReturn

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser

from dua_lightning.__main__ import COMMANDS as WORDS
from dua_lightning.__main__ import CONF
from dua_lightning.commands import export
from dua_lightning.run.rows import rows
from dua_lightning.run.settings import of_seed
from tests.commands.test_choose import SIMULATED, sweep
from tests.helpers import pages
from tests.helpers.cli import TINY, refused, run
from tests.helpers.pages import ALL, ROOT, Command, commands, files, parsed, text, under
from tests.personal import runs

SCRIPTS = under("experiments/**/*.sh")
OTHERS = {"cd", "cp", "eval", "export", "git", "mkdir", "mlflow", "source", "tensorboard", "wandb"}
"""Programs whose arguments are not looked at."""


Follow = Callable[[Command], None]


@pytest.fixture
def follow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Follow:
    """Goes with a command as far as it can be gone without the data and the hours that it takes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "store").mkdir()

    def one(command: Command) -> None:
        match command.words:
            case ("dua", *given) | ("python", "-m", "dua_lightning", *given):
                program(["1" if word == "N" else word for word in given], command)
            case ("python", "-m", "pytest", *given):
                assert all((ROOT / path).exists() for path in given if "/" in path)
            case ("python", "-m", module, *given):
                found = find_spec(module)
                assert found, module
                assert found.origin, module
                origin = Path(found.origin)
                parsed_by(origin.with_name("__main__.py") if origin.stem == "__init__" else origin, given)
            case ("python", "-c", code, *_):
                compile(code, "page", "exec")
            case ("python", script, *given):
                parsed_by(ROOT / script, given)
            case ("make", *given):
                for line in dry(given):
                    every(parsed(line, certain=False))
            case ("pip", "install", *given):
                assert {extra for word in given for extra in extras(word)} <= EXTRAS, given
            case (script, *given) if re.fullmatch(r"experiments/.*\.sh", script):
                assert script in SCRIPTS
                every(noted(script, given, command.environment, tmp_path))
            case ("bash", script, *_):
                assert (ROOT / script).exists()
            case (other, *_):
                assert not command.certain or other in OTHERS, f"nobody has said how to follow {other}"

    def every(found: Iterable[Command]) -> None:
        for command in found:
            one(replace(command, words=(command.words[0].removeprefix(".venv/bin/"), *command.words[1:])))

    def program(given: list[str], command: Command) -> None:
        name, *rest = given or [""]
        if name not in (*WORDS, "--help", "--version", "-sc"):
            own = tmp_path / "conf"
            refuse_nothing(given, *([f"hydra.searchpath=[file://{own}]"] if own.is_dir() else []))
        elif rest or command.certain:
            if name == "dashboard":
                # Nothing is sent from a machine where somebody has logged in.
                given = [*given, "--dry-run", "dashboard.json"]
            done = run(*given, capfd=capfd, monkeypatch=monkeypatch)
            # The reader of the page has the runs and the pictures that are missing here, and text may leave them out.
            lacking = "arguments are required" in done.err and not command.certain
            assert done.status == 0 or (refused(done) and (lacking or "--help shows how" not in done.err)), done

    return lambda command: every([command])


def refuse_nothing(arguments: list[str], *more: str) -> None:
    """A run's settings compose, and its rows can be made; of a sweep, each choice of each setting in some job."""
    hydra = get_args_parser().parse_args(arguments)
    given = OverridesParser.create().parse_overrides(hydra.overrides)
    choices = [list(o.sweep_string_iterator()) if o.is_sweep_override() else [o.value()] for o in given]
    assert hydra.multirun or all(len(values) == 1 for values in choices), "a sweep needs -m"
    for job in range(max(map(len, choices), default=1)):
        chosen = [
            f"{o.get_key_element()}={values[job % len(values)]}" if o.is_sweep_override() else str(o.input_line)
            for o, values in zip(given, choices, strict=True)
        ]
        composes(*more, *(word for word in chosen if not word.startswith("hydra.searchpath")))


@cache
def composes(*chosen: str) -> None:
    """Pages have commands in common."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", list(chosen))
    if "rows" not in cfg.method:
        assert rows(of_seed([cfg], 1))


class Parsed(Exception):  # noqa: N818
    """A script has read its arguments, and goes no further."""


def parsed_by(script: Path, arguments: Sequence[str]) -> None:
    """A script is there and, where it has a parser, reads its arguments; those that are settings compose."""
    source = script.read_text(encoding="utf-8")
    if "ArgumentParser" not in source:
        return

    def ends(parser: ArgumentParser, *given: Sequence[str]) -> NoReturn:
        parse(parser, *given)
        raise Parsed

    parse = ArgumentParser.parse_args
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ArgumentParser, "parse_args", ends)
        patch.setattr(sys, "argv", [str(script), *arguments])
        patch.syspath_prepend(script.parent)
        with pytest.raises(Parsed):
            run_path(str(script), run_name="__main__")
    settings = [word for word in arguments if re.match(r"\+?[a-z][\w/.]*=", word)]
    if settings:
        refuse_nothing(settings)


def dry(arguments: Sequence[str]) -> list[str]:
    """The lines that `make` would run; a variable that is given is one of the Makefile's."""
    variables = re.findall(r"^(\w+) \?=", text("Makefile"), re.MULTILINE)
    assert {word.partition("=")[0] for word in arguments if "=" in word} <= {*variables}
    done = subprocess.run(["make", "--dry-run", *arguments], cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.splitlines()


EXTRAS = {*tomllib.loads(text("pyproject.toml"))["project"]["optional-dependencies"]}


def extras(package: str) -> list[str]:
    """The extras of this package that pip is asked for."""
    match = re.fullmatch(r"(?:dua_lightning|\.)\[(.+)\]", package)
    return match[1].split(",") if match else []


def noted(script: str, arguments: Sequence[str], variables: Mapping[str, str], folder: Path) -> list[Command]:
    """The commands of a script; a `python` that only notes its arguments stands before the real one."""
    fake, notes = folder / "python", folder / "notes"
    # A line is written at once, since a script may run two at a time.
    fake.write_text('#!/usr/bin/env bash\nline=$(printf "%q " python "$@"); echo "$line" >> "$NOTES"\n')
    fake.chmod(0o755)
    notes.unlink(missing_ok=True)
    environment = {**os.environ, **variables, "PATH": f"{folder}:{os.environ['PATH']}", "NOTES": str(notes)}
    subprocess.run(["bash", script, *arguments], cwd=ROOT, env=environment, check=True)
    return [Command(tuple(shlex.split(line))) for line in notes.read_text().splitlines()]


@pytest.mark.parametrize("page", [page for page in ALL if commands(page)])
def test_a_command_of_a_page_can_be_followed(
    page: str, follow: Follow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page's own files are there, as extensions have them."""
    for name, code in files(page).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        monkeypatch.delitem(sys.modules, name)
    for command in commands(page):
        follow(command)


@pytest.mark.parametrize(
    "line",
    [
        *("dua method=nosuch", "python -m dua_lightning seed=1,2", "dua report --nosuch RUN", "dua --nosuch", "nosuch"),
        *("python benchmarks/scaling.py --nosuch", "python -m tests.nosuch", "python nosuch.py", "make nosuch"),
        *("make digits RUN=nosuch=1", "make digits NOSUCH=1", "pip install 'dua_lightning[nosuch]'"),
        *("experiments/nosuch.sh", "experiments/digits/run.sh nosuch=1"),
    ],
)
def test_a_command_that_does_not_work_cannot_be_followed(line: str, follow: Follow) -> None:
    (command,) = parsed(line)
    with pytest.raises((Exception, SystemExit)):
        follow(command)


@pytest.mark.parametrize("images", ["photos", "mit_indoor"])
@pytest.mark.parametrize("script", [script for script in SCRIPTS if "IMAGES" in text(script)])
def test_a_script_can_be_followed_with_other_images(script: str, images: str, follow: Follow) -> None:
    follow(Command((script,), {"IMAGES": images}))


def test_commands_are_found_wherever_a_page_may_have_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (
        "`dua a=1` and `not a command`\n\n    X=2 dua b \\\n        c  # text\n    cd d && dua e | dua f\n\n"
        '=== "tab"\n\n    ```sh\n    $ dua "g h" > file\n    eval "$(dua i)"\n    ```\n\n```text\ndua never\n```\n'
    )
    (tmp_path / "page.md").write_text(page)
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    found = {command.words[1:]: command for command in commands("page.md") if command.words[0] == "dua"}
    assert set(found) == {("a=1",), ("b", "c"), ("e",), ("f",), ("g h",), ("i",)}
    assert found["b", "c"].environment == {"X": "2"}
    assert [words[0] for words, command in found.items() if command.certain] == ["g h", "i"]


def test_every_script_of_a_study_is_on_a_page() -> None:
    assert {*SCRIPTS} <= {command.words[0] for page in ALL for command in commands(page)}


ON_RUNS = {*WORDS} - {"init", "store", "rates", "serve", "device"}
"""Commands on any finished run; rates are learnt on simulated users alone, and a server and its devices run together in
`tests/federation`."""


def on_finished_runs() -> list[tuple[str, ...]]:
    """The commands of pages on what runs leave, with a name in braces for each folder and file that they read."""
    found = set()
    for command in (command for page in ALL for command in commands(page)):
        match command.words:
            case ("dua", name, *given) | ("python", "-m", "dua_lightning", name, *given) if name in ON_RUNS and given:
                found.add((name, *named(name, given)))
    return sorted(words for words in found if any("{" in word for word in words))


def named(name: str, given: list[str]) -> Iterator[str]:
    for before, word in zip(["", *given], (word.strip("[].") for word in given), strict=False):
        if word.lower().endswith(".jpg"):
            yield "{picture}"
        elif re.search("/models?/", word):
            yield "{model}"
        elif before in ("--adapt", "--out"):
            yield before.replace("--", "{") + "}"
        elif word.startswith("outputs") or re.fullmatch("[A-Z_]+", word):
            yield "{run}" if name != "choose" else "{scored}" if before else "{simulated}"
        elif word:
            yield word


ROW = ("--row", "MAS-IMM + AdaBN")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run with a user's model and pictures, and a sweep on simulated users beside one on the benchmark's own."""
    folder = tmp_path_factory.mktemp("finished")
    gains = {0.1: 3.0, 0.2: 5.0}
    of_ann = folder / "pictures/users/ann"
    run = runs.run(folder, *runs.OWN, "method=ledger", "data.iterations=1", "seed=[1,2]")
    assert export.main([str(run), *ROW, "--user", "ann", "--formats", "safetensors"]) == 0
    return {
        "run": run,
        "model": run / "models/ann",
        "picture": of_ann / "kitchen/pots/0.jpg",
        "adapt": of_ann / "kitchen/pots",
        "scored": sweep(folder / "scored", gains, {}),
        "simulated": sweep(folder / "simulated", gains, SIMULATED),
    }


@pytest.mark.parametrize("words", on_finished_runs(), ids=" ".join)
def test_a_command_of_a_page_on_a_finished_run_runs(
    words: tuple[str, ...],
    finished: dict[str, Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = [word.format(**finished, out=tmp_path) for word in words]
    if words[0] == "export" and "--row" not in words:
        given += ROW
    if words[0] == "predict":
        given += ["--code", "tests"]
    done = run(*given, capfd=capfd, monkeypatch=monkeypatch)
    assert done.status == 0, done.err


ELSEWHERE = (
    "trainer=",
    "hydra",
    "engine=ray",
    "engine=flower",
    "engine.",
    "model=own",
    "model=timm",
    "logger=",
    "data/images=table",
)
"""Beginnings of words that ask for another machine, an account, or files that the reader has."""


@pytest.mark.slow
def test_a_run_of_a_page_on_digits_or_on_pictures_of_ones_own_runs(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each with its own choices, few and small pictures, and one epoch."""
    monkeypatch.chdir(tmp_path)
    runs.pictures(tmp_path / "pictures")
    few = {
        "digits": TINY[1:-1],
        "own_users": (
            *(f"data.images.root={tmp_path / 'pictures'}", "data.images.size=36", "data.input_size=32"),
            "model.weights=none",
        ),
    }
    failed, ran = [], 0
    for words in sorted({command.words for page in ALL if not files(page) for command in commands(page)}):
        match words:
            case ("dua", name, *given) | ("python", "-m", "dua_lightning", name, *given) if name not in WORDS:
                given = [name, *given]
            case _:
                continue
        if any(word.startswith((*ELSEWHERE, "--")) for word in given):
            continue
        first = [re.sub(",.*", "", word) for word in given if re.match(r"\+?(data|experiment)=", word)]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            data = compose("config", first).data.name
        if data in few:
            small = ("trainer.max_epochs=1", "threads=1", f"paths.output_dir={tmp_path / f'run{ran}'}")
            done = run(*given, *few[data], *small, capfd=capfd, monkeypatch=monkeypatch)
            ran += 1
            failed += [f"{shlex.join(given)}: {done.err}"] if done.status else []
    assert ran >= 10
    assert not failed, "\n".join(failed)
