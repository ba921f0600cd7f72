"""Time and memory of the hot paths against lower bounds measured in the same process: `make bench`.

    python benchmarks/hot_paths.py [--only WORD ...] [--runs 7] [--peers] [--out outputs/bench]

Each path and its floor run in turn, several times after a warm-up; the ratio of a pair is what counts, because the
speed of a machine drifts. Memory is the rise of a fresh process's peak during one call. Prints the table, and writes it
as `hot_paths.json` and `hot_paths.md`.
"""

import argparse
import json
import logging
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from memory import reset_peak, status
from paths import PATHS, Call, Sides
from rich.console import Console
from rich.progress import track
from rich.table import Table

from dua_lightning.run.provenance import environment
from dua_lightning.store.files import write_text

PEER_RUNS = 3


def seconds(call: Call) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def ratios(call: Call, floor: Call, runs: int) -> tuple[list[float], float, float]:
    """Sorted ratios of `runs` pairs after a warm-up, and the medians of both in seconds."""
    call(), floor()
    pairs = [(seconds(call), seconds(floor)) for _ in range(runs)]
    own, least = (statistics.median(column) for column in zip(*pairs, strict=True))
    return sorted(a / b for a, b in pairs), own, least


def peak(name: str, side: str) -> float:
    """Bytes by which one call, the first of a fresh process, raises the peak; NaN where the system does not tell."""
    command = [sys.executable, __file__, "--peak", name, side]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_peak(name: str, side: str) -> None:
    call: Call = getattr(PATHS[name].make(), side)
    before = reset_peak()
    call()
    print(status("VmHWM") - before)


def measure(name: str, runs: int, with_peers: bool) -> dict[str, Any]:
    path = PATHS[name]
    sides: Sides = path.make()
    found, own, least = ratios(sides.path, sides.floor, runs)
    result: dict[str, Any] = {
        "floor": path.floor,
        "target": path.target,
        "ratio": statistics.median(found),
        "ratios": found,
        "seconds": own,
        "floor_seconds": least,
    }
    if with_peers:
        peers = {peer: ratios(call, sides.floor, PEER_RUNS)[0] for peer, call in sides.peers.items()}
        result["peers"] = {peer: statistics.median(values) for peer, values in peers.items()}
    if path.memory is not None:
        del sides
        result |= {"memory_target": path.memory, "memory": peak(name, "path") / peak(name, "floor")}
    return result


def row(name: str, result: dict[str, Any]) -> list[str]:
    target = f"{result['target']:.2f}" if result["target"] < float("inf") else "-"
    memory = f"{result['memory']:.2f} / {result['memory_target']:.2f}" if "memory" in result else "-"
    measured = f"{result['ratio']:.2f} ({result['ratios'][0]:.2f} - {result['ratios'][-1]:.2f})"
    peers = ", ".join(f"{peer} {value:.2f}" for peer, value in result.get("peers", {}).items())
    return [name, result["floor"], f"{result['floor_seconds']:.4f}", measured, target, memory, peers or "-"]


COLUMNS = ["path", "floor", "floor (s)", "time / floor (min - max)", "target", "memory / floor, target", "peers"]


def main() -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[""], help="paths whose name has one of these words")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--peers", action="store_true", help="other ways too, Opacus and BackPACK where installed")
    parser.add_argument("--out", type=Path, default=Path("outputs/bench"))
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        print_peak(*arguments.peak)
        return
    names = [name for name in PATHS if any(word in name for word in arguments.only)]
    results = {name: measure(name, arguments.runs, arguments.peers) for name in track(names, "paths")}
    rows = [row(name, result) for name, result in results.items()]
    table = Table(*COLUMNS, title=f"medians of {arguments.runs} pairs")
    for cells in rows:
        table.add_row(*cells)
    Console().print(table)
    lines = [COLUMNS, ["---"] * len(COLUMNS), *rows]
    write_text(arguments.out / "hot_paths.md", "".join(f"| {' | '.join(cells)} |\n" for cells in lines))
    write_text(
        arguments.out / "hot_paths.json", json.dumps({"environment": environment(), "paths": results}, indent=2) + "\n"
    )
    print(f"  {arguments.out / 'hot_paths.json'}\n  {arguments.out / 'hot_paths.md'}")


if __name__ == "__main__":
    main()
