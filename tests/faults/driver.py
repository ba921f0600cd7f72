"""A real run that is killed, or whose writes fail, and is then given again until it ends.

What counts at the end is that the table and every stored tensor are, bit for bit, those of a run that nothing has
disturbed, and that nothing damaged was left on the way.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from dua_lightning.report.records import read
from tests.faults import alone
from tests.helpers.cli import TINY, Done, refused
from tests.helpers.process import ROOT

RUN = (
    *TINY,
    "threads=1",
    "seed=[1,2]",
    "data.iterations=2",
    "trainer.max_epochs=2",
    "store.priors=true",
    "paths.output_dir=out",
    "method=all",
    "method.rows=[{method: racl, importance: mas}, {method: imm, importance: mas}, {method: ewc}, {method: lwf}]",
)
"""Four rows of which two share all experts, and all share the first; three users, two seeds, two iterations."""

ONE = (*TINY, "threads=1", "trainer.max_epochs=2", "paths.output_dir=out")
"""One row, for faults in every single write."""


@dataclass(frozen=True)
class Outcome:
    """The files that a run left: `tables`, name -> bytes, and `tensors`, file -> name -> type, shape and bytes."""

    tables: dict[str, bytes]
    tensors: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Undisturbed:
    """The run that others are compared with: its command, what it left, its seconds, and its boundaries."""

    arguments: tuple[str, ...]
    outcome: Outcome
    seconds: float
    boundaries: int


def undisturbed(arguments: tuple[str, ...], folder: Path) -> Undisturbed:
    began = time.monotonic()
    cwd = _cwd(folder)
    done = alone.run(*arguments, cwd=cwd, fault="count:0")
    assert done.status == 0, done.err
    boundaries = len((folder / "boundaries.txt").read_text().splitlines())
    return Undisturbed(arguments, outcome(cwd), time.monotonic() - began, boundaries)


def killed_at(boundary: int, whole: Undisturbed, folder: Path) -> str:
    """Say what is wrong after a kill at that write and a second run; empty where nothing is."""
    cwd = _cwd(folder)
    done = alone.run(*whole.arguments, cwd=cwd, fault=f"kill:{boundary}")
    if done.status != -9:
        return f"boundary {boundary} was not reached: {done.status} {done.err[-500:]}"
    return _finished(whole, cwd)


def killed_after(seconds: float, whole: Undisturbed, folder: Path) -> str:
    """The same for a kill at some time."""
    cwd = _cwd(folder)
    running = alone.start(*whole.arguments, cwd=cwd)
    time.sleep(seconds)
    running.process.kill()
    running.wait()
    return _finished(whole, cwd)


def failed_at(kind: str, boundary: int, whole: Undisturbed, folder: Path) -> str:
    """Say what is wrong after that write has failed: in how the run ended, what it left, or the second run."""
    cwd = _cwd(folder)
    done = alone.run(*whole.arguments, cwd=cwd, fault=f"{kind}:{boundary}")
    where = _at(folder, boundary)
    if done.status == 0 and where.split()[1] in TOLERATED:
        return ""
    if not refused(done):
        return f"{where}: status {done.status}, {done.err[-1000:]!r}"
    if left := [str(path) for path in cwd.rglob(".*") if path.is_file() and _unfinished(path)]:
        return f"{where}: left {left}"
    try:
        outcome(cwd)
    except Exception as error:
        return f"{where}: left a damaged file ({error})"
    return _finished(whole, cwd)


TOLERATED = ("sync",)
"""The program goes on after these: a file system has nothing to wait for."""


def same_second(count: int, folder: Path) -> list[str]:
    """Start runs and a sweep at once, without a folder; say for each what is wrong, empty where nothing is."""
    cwd = _cwd(folder)
    small = (*TINY, "threads=1", "logger=none")
    # Seeds that no other run has, by which a folder is known.
    asked = [(f"seed={10 * i}",) for i in range(1, count)] + [("-m", f"seed={10 * count},{10 * count + 1}")]
    running = [alone.start(*options, *small, cwd=cwd) for options in asked]
    done = [run.wait() for run in running]
    tables = [read(path) for path in cwd.glob("outputs/*/*/records.csv")]
    found = sorted(tuple(sorted({*table["seed"]})) for table in tables)
    wrong = []
    for i, end in enumerate(done, 1):
        seeds = (10 * i,) if i < count else (10 * i, 10 * i + 1)
        wrong.append("" if end.status == 0 and seeds in found else f"status {end.status}, {found}: {end.err[-500:]}")
    return wrong


def same_folder(folder: Path) -> list[str]:
    """Say what is wrong with a second run in the folder of a live one, and with one after that was killed."""
    cwd = _cwd(folder)
    small = (*TINY, "threads=1", "logger=none", "paths.output_dir=out")
    first = alone.start(*small, "trainer.max_epochs=1000000", "callbacks=none", cwd=cwd)
    while not any(cwd.glob("store/experts/.*.partial/last.ckpt")):
        if first.ended:
            return [f"the first run ended: {first.wait()}"]
        time.sleep(0.05)
    before = _files(cwd / "out")
    wrong = []
    for options in ((), ("-m",)):
        second = alone.run(*options, *small, "seed=2", cwd=cwd)
        fine = refused(second) and f"out is used by another run (process {first.pid} on " in second.err
        fine = fine and _files(cwd / "out") == before
        wrong.append("" if fine else f"{second}, {_files(cwd / 'out').keys() ^ before.keys()}")
    first.process.kill()
    first.wait()
    after = alone.run(*small, "seed=2", cwd=cwd)
    return [*wrong, "" if after.status == 0 else f"after a kill: {after}"]


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def points(whole: Undisturbed, count: int, seed: int = 0) -> Iterator[tuple[str, float]]:
    """`count` kills: half at writes spread evenly over the run, half at random times."""
    at_writes = -(-count // 2)
    for i in range(at_writes):
        yield "write", 1 + i * (whole.boundaries - 1) // max(at_writes - 1, 1)
    stream = random.Random(seed)
    for _ in range(count - at_writes):
        yield "time", stream.uniform(0, whole.seconds)


def killed(point: tuple[str, float], whole: Undisturbed, folder: Path) -> str:
    kind, at = point
    return killed_at(int(at), whole, folder) if kind == "write" else killed_after(at, whole, folder)


def spawned(fault: str, arguments: tuple[str, ...], cwd: Path) -> Done:
    """The same as a fresh process, which loads everything itself."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    code = "import tests.faults.inject; from dua_lightning.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **alone.ALONE, "PYTHONPATH": path, "DUA_FAULT": fault},
    )
    return Done(done.returncode, done.stdout, done.stderr)


def outcome(cwd: Path) -> Outcome:
    """Tables and tensors below `cwd`; what a killed process left unfinished does not count, see `_unfinished`."""
    files = sorted(path for path in cwd.rglob("*") if path.is_file() and not path.name.startswith("."))
    return Outcome(
        {
            str(path.relative_to(cwd)): path.read_bytes()
            for path in files
            if path.name in ("records.csv", "summary.json")
        },
        {str(path.relative_to(cwd)): _tensors(path) for path in files if path.suffix == ".safetensors"},
    )


def _finished(whole: Undisturbed, cwd: Path) -> str:
    done = alone.run(*whole.arguments, cwd=cwd)
    if done.status != 0:
        return f"the second run ended with {done.status}: {done.err[-1500:]}"
    found = outcome(cwd)
    for kind in ("tables", "tensors"):
        ours, theirs = getattr(found, kind), getattr(whole.outcome, kind)
        if ours.keys() != theirs.keys():
            return f"other {kind}: {sorted(ours.keys() ^ theirs.keys())}"
        if other := [name for name in ours if ours[name] != theirs[name]]:
            return f"other {kind}: {other}"
    shutil.rmtree(cwd.parent)
    return ""


def _cwd(folder: Path) -> Path:
    cwd = folder / "cwd"
    cwd.mkdir(parents=True)
    return cwd


def _at(folder: Path, boundary: int) -> str:
    lines = (folder / "boundaries.txt").read_text().splitlines()
    return lines[boundary - 1] if len(lines) >= boundary else f"{boundary} was not reached"


def _unfinished(path: Path) -> bool:
    return path.suffix != ".lock" and path.parent.name != ".hydra"


def _tensors(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="np") as file:
        about = json.loads((file.metadata() or {}).get("values", "{}"))
        # The costs of an adaptation and of a merge have wall time in them.
        names = [name for name in file.keys() if name not in ("costs", "merging")]  # noqa: SIM118
        values = {name: file.get_tensor(name) for name in names}
    found: dict[str, Any] = {n: (str(v.dtype), v.shape, v.tobytes()) for n, v in values.items()}
    return found | {"made_of": about.get("made_of")}
