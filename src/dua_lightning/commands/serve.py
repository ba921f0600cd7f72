"""`dua serve`: a run's experts for real devices: it takes their priors, merges, and sends each its personal model."""

import os
import time
from argparse import Namespace
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from dua_lightning.commands.report import Parser
from dua_lightning.errors import InputError
from dua_lightning.report.terminal import Terminal

TICK = 0.5
"""Seconds between two looks at new cards and new lines."""
MEBI = 1 << 20
"""The bytes of a MiB."""


def main(arguments: Sequence[str]) -> int:
    """Serve devices until enough have their models, or until it is ended.

    Args:
        arguments: The words of the command line.

    Returns:
        The exit status.

    Raises:
        InputError: The run cannot be served, or the address cannot be listened at.
    """
    parser = Parser(prog="dua serve", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a run")
    parser.add_argument("--row", metavar="LABEL", help="the row, by its name in tables, where the run has several")
    parser.add_argument("--seed", type=int, metavar="S", help="the seed (default: the run's first)")
    parser.add_argument("--draw", type=int, default=1, metavar="N", help="the draw of users' halves (default: 1)")
    parser.add_argument("--host", default="127.0.0.1", help="the name or address to listen at (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=9092, help="the port (default: 9092)")
    parser.add_argument("--state", type=Path, metavar="DIR", help="the server's own folder (default: `server` in RUN)")
    parser.add_argument("--exchange", type=Path, metavar="DIR", help="a folder that devices reach too, for large files")
    parser.add_argument(
        "--above", type=float, default=64, metavar="MIB", help="files above so many MiB go through it (default: 64)"
    )
    parser.add_argument(
        "--largest",
        type=float,
        metavar="FACTOR",
        help="a user's prior may be so many times as large as the server's own (default: 10, of the FIM 100)",
    )
    parser.add_argument("--until", type=int, metavar="N", help="end when N users have their models (default: never)")
    parser.add_argument("--insecure", action="store_true", help="without encryption, for tests on one machine")
    given = parser.parse_args(arguments)
    if find_spec("flwr") is None:
        raise InputError("dua serve needs the package flwr; pip install 'dua_lightning[federation]'")
    if not 0 < given.port < 1 << 16:
        raise InputError(f"--port {given.port} cannot be used: it is from 1 to 65535")
    for name in ("largest", "until"):
        if getattr(given, name) is not None and not getattr(given, name) > 0:
            raise InputError(f"--{name} {getattr(given, name)} cannot be used: it is above 0")
    return _serve(given)


def _serve(given: Namespace) -> int:
    from dua_lightning.federation.address import refuse_taken
    from dua_lightning.federation.keys import cards, certificates
    from dua_lightning.federation.serving import ENDED, LINES, SETTINGS, Serving
    from dua_lightning.federation.superlink import SuperLink, door
    from dua_lightning.run.finished import read
    from dua_lightning.run.folders import hold
    from dua_lightning.store.files import write_text

    read(given.run)
    refuse_taken(given.host, given.port)
    state = (given.state or given.run / "server").absolute()
    for folder in filter(None, (state / "devices", given.exchange)):
        folder.mkdir(parents=True, exist_ok=True)
    hold(state)
    cards(state / "devices")
    serving = Serving(
        pid=os.getpid(),
        run=given.run.absolute(),
        row=given.row,
        seed=given.seed,
        draw=given.draw,
        times=given.largest,
        exchange=given.exchange and given.exchange.absolute(),
        large=int(given.above * MEBI),
        until=given.until,
    )
    write_text(state / SETTINGS, serving.model_dump_json() + "\n")
    ended, lines = state / ENDED, state / LINES
    ended.unlink(missing_ok=True)
    place = lines.stat().st_size if lines.exists() else 0
    made = certificates(state, given.host)
    console = Terminal()
    link = SuperLink(state, made, state / "flower.log")
    try:
        link.wait()
        link.register()
        link.start()
        with door(link, given.host, given.port, None if given.insecure else made):
            address = f"{given.host}:{given.port}"
            console.print(f"serving {given.run} at {address}{' without encryption' if given.insecure else ''}")
            console.print(f"  {made.ca} is for devices; their cards belong into {state / 'devices'}")
            while True:
                place = _follow(lines, place, console)
                if ended.exists():
                    _follow(lines, place, console)
                    return _ended(ended)
                if link.process.poll() is not None:
                    raise InputError(f"Flower's SuperLink has ended; {state / 'flower.log'} tells why")
                for name in link.register():
                    console.print(f"{name}: the card is known")
                time.sleep(TICK)
    finally:
        link.end()


def _follow(path: Path, read: int, console: Terminal) -> int:
    """Print the lines that have come since; gives the place up to which they were read."""
    if not path.exists():
        return read
    with path.open("rb") as file:
        file.seek(read)
        lines = file.read().decode(errors="replace")
    whole = lines[: lines.rfind("\n") + 1]
    for line in whole.splitlines():
        console.print(line)
    return read + len(whole.encode(errors="replace"))


def _ended(path: Path) -> int:
    import json

    if error := json.loads(path.read_text(encoding="utf-8"))["error"]:
        raise InputError(error)
    return os.EX_OK
