"""docs/extending.md is true: each of its examples is added from outside the package, and runs."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dua_lightning.report.records import read
from tests.helpers.cli import TINY, Done, refused, run
from tests.helpers.pages import commands, files
from tests.helpers.process import spawn

PAGE = "docs/extending.md"
FILES = files(PAGE)
COMMANDS = [[*command.words[1 if command.words[0] == "dua" else 3 :]] for command in commands(PAGE) if command.certain]
GROUPS = {"adapt", "importance", "merge", "regularise", "data", "model", "method"}
SMALL = ("trainer.max_epochs=1", "logger=none", "threads=1")
LABELS = {
    "adapt=balance": {"MAS-RACL + balance"},
    "merge=columns importance=inputs": {"Inputs-RACL, columns merge"},
    "merge=wise_ft": {"RACL, WiSE-FT merge"},
    "regularise=shrink": {"MAS-RACL, weight decay training"},
    "data=stripes": {"MAS-RACL"},
    "model=patches statistics=server adapt=adabn": {"MAS-RACL, server statistics + AdaBN"},
    "method=halfway": {"Halfway"},
    "method=ours": {"MAS-RACL", "MAS-RACL + balance", "Halfway"},
}


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of the page in a folder of their own, which Python and Hydra are told of."""
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    # Another test's files lie in another folder.
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


@pytest.fixture
def dua(mine: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    def call(*arguments: str) -> Done:
        where = (f"hydra.searchpath=[file://{mine / 'conf'}]", f"paths.output_dir={mine / 'out'}")
        return run(*arguments, *SMALL, *where, capfd=capfd, monkeypatch=monkeypatch)

    return call


def size(command: list[str]) -> list[str]:
    """Settings of the digits and the perceptron that a command has not replaced."""
    own = [name for name in ("data", "model") if any(text.startswith(f"{name}=") for text in command)]
    return [text for text in TINY if not text.startswith((*(f"{name}." for name in own), *own, "trainer"))]


def test_the_page_has_one_of_each_kind_and_a_command_for_every_choice() -> None:
    assert {name.split("/")[1] for name in FILES if name.startswith("conf/")} == GROUPS
    choices = {f"{Path(name).parent.name}={Path(name).stem}" for name in FILES if name.startswith("conf/")}
    assert choices <= {word for command in COMMANDS for word in command}
    assert {" ".join(command) for command in COMMANDS} == set(LABELS)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_of_the_page_runs_with_files_from_outside(
    command: list[str], dua: Callable[..., Done], mine: Path
) -> None:
    done = dua(*command, *size(command))
    assert done.status == 0, done.err
    frame = read(mine / "out" / "records.csv")
    assert set(frame["label"]) == LABELS[" ".join(command)]
    assert frame["user"].nunique() > 1


def spawned(mine: Path, *arguments: str) -> Done:
    """The program as a process of its own, started beside the files."""
    where = (f"hydra.searchpath=[file://{mine / 'conf'}]", f"paths.output_dir={mine / 'out'}")
    path = os.pathsep.join([str(mine), os.environ.get("PYTHONPATH", "")])
    return spawn(*arguments, *SMALL, *where, cwd=mine, more={"PYTHONPATH": path})


@pytest.mark.slow
def test_everything_from_outside_at_once_in_a_sweep_of_processes_of_their_own(mine: Path) -> None:
    everything = ("adapt=none,balance", "merge=columns", "importance=inputs", "regularise=shrink", "data=stripes")
    done = spawned(mine, "-m", *everything, "model.width=8", "engine=loky", "engine.workers=1")
    assert done.status == 0, done.err
    label = "Inputs-RACL, weight decay training, columns merge"
    assert set(read(mine / "out" / "records.csv")["label"]) == {label, f"{label} + balance"}
    # The command that makes a job again finds the files too.
    again = json.loads((mine / "out" / "1" / "environment.json").read_text())["command"]
    assert f"hydra.searchpath=[file://{mine / 'conf'}]" in again


def test_a_regulariser_that_acts_on_the_first_task_has_a_first_expert_of_its_own(dua: Callable[..., Done]) -> None:
    assert dua("regularise=none", *TINY).status == 0
    assert "reused 1 experts" in dua("regularise=ewc", *TINY).out
    assert "reused" not in dua("regularise=shrink", *TINY).out


def test_a_prior_that_a_merge_cannot_use_is_one_line(dua: Callable[..., Done]) -> None:
    for wrong, words in (
        (("merge=mode", "importance=inputs"), ("(2352,), its expert (8, 2352)", "a number for each weight")),
        (("merge=columns", "importance=mas"), ("needs the squares of the inputs", "importance=inputs")),
    ):
        done = dua(*wrong, *TINY)
        assert refused(done), done.err
        for word in words:
            assert word in done.err


@pytest.mark.slow
def test_a_change_of_somebody_elses_code_makes_results_anew(dua: Callable[..., Done], mine: Path) -> None:
    """A change of a module that a class imports, too."""
    path, rates = mine / "mine" / "balance.py", mine / "mine" / "rates.py"
    rates.write_text("RATE = 0.5\n")
    text = path.read_text().replace("self.strength * logits", "RATE * logits")
    path.write_text(text.replace("import torch\n", "import torch\nfrom mine.rates import RATE\n", 1))
    assert dua("adapt=balance", *TINY).status == 0
    assert "reused 2 experts and 3 of 3 results" in dua("adapt=balance", *TINY).out
    rates.write_text("RATE = 0.1\n")
    # Within a process code does not change.
    assert "reused 2 experts and 0 of 3 results" in spawned(mine, "adapt=balance", *TINY).out


def test_modules_are_found_in_the_working_folder_as_by_python(tmp_path: Path) -> None:
    """The command `dua` searches the folder that it lies in, and not the one where it was started."""
    (tmp_path / "mynet.py").write_text("from dua_lightning.nets import mlp\n\ndef net(**given): return mlp(**given)\n")
    arguments = (*TINY, *SMALL, "model._target_=mynet.net", "paths.output_dir=out")
    done = spawn(*arguments, cwd=tmp_path)
    assert done.status == 0, done.err
    (tmp_path / "mynet.py").write_text("import torhc\n")
    done = spawn(*arguments, cwd=tmp_path)
    assert refused(done), done.err
    assert "model._target_=mynet.net cannot be used: No module named 'torhc'" in done.err
