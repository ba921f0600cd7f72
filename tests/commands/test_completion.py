"""Tab completion in real shells: commands, their words and files are completed, and settings as Hydra does."""

import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path
from select import select

import pytest

LINES = {
    "dua rep": ["report"],
    "dua report --o": ["--out"],
    "dua report met": [],
    "dua store s": ["show"],
    "dua store gc --k": ["--keep-days"],
    "dua --ver": ["--version"],
    "dua +experiment=dig": ["+experiment=digits"],
    "dua method=rac": ["method=racl"],
    "dua seed=1 importance=f": ["importance=fim"],
    "dua seed=1 repo": [],
    'dua name="a b" met': [],
    "dua report notes": ["notes.txt"],
}
"""Lines that are being typed, and the words that can follow, as the shell is told or finds among files."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a file, and with the program `dua` on the path."""
    program = tmp_path / "bin" / "dua"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nfrom dua_lightning.__main__ import main\n\nmain()\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "notes.txt").touch()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def answered(*command: str) -> list[list[str]]:
    """The words on each line that a shell prints; it prints no error."""
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not done.stderr
    return [sorted(line.split()) for line in done.stdout.splitlines()]


def test_bash_is_told_the_commands_their_words_and_settings(folder: Path) -> None:
    script = 'eval "$(dua -sc install=bash)"\n'
    told = {line: words for line, words in LINES.items() if "notes" not in line}
    for line in told:
        script += f"COMP_LINE='{line}'; COMP_POINT={len(line)}; COMP_WORDS=($COMP_LINE)\n"
        script += f'COMP_CWORD={len(line.split(" ")) - 1}; hydra_bash_completion; echo "${{COMPREPLY[@]}}"\n'
    assert dict(zip(told, answered("bash", "--norc", "-c", script), strict=True)) == told


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("fish"), reason="fish is not installed")
def test_fish_is_told_the_same_and_completes_files(folder: Path) -> None:
    script = "dua -sc install=fish | source\n" + "".join(f"echo (complete -C '{line}')\n" for line in LINES)
    told = zip(LINES, answered("fish", "--no-config", "-c", script), strict=True)
    # It also offers what has the letters elsewhere.
    assert {line: [one for one in words if one.startswith(line.split(" ")[-1])] for line, words in told} == LINES


ZSH = "autoload -Uz compinit && compinit -u -D && autoload -Uz bashcompinit && bashcompinit; "
SHELLS = {"bash": (["--norc", "--noprofile", "-i"], ""), "zsh": (["-f", "-i"], ZSH)}


@pytest.mark.parametrize("shell", SHELLS)
def test_the_tabulator_key_completes_commands_and_files(folder: Path, shell: str) -> None:
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    options, first = SHELLS[shell]
    process, terminal = pty.fork()
    if process == 0:
        os.execvp(shell, [shell, *options])
    os.write(terminal, f'{first}eval "$(dua -sc install=bash)"\ndua rep\t not\t --help\nexit\n'.encode())
    seen = b""
    while b"usage: dua report" not in seen:
        assert select([terminal], [], [], 60)[0], seen
        seen += os.read(terminal, 4096)
    os.close(terminal)
    os.waitpid(process, 0)
    assert b"notes.txt" in seen
