"""`dua store`: lists the entries of the store, shows and verifies them, and makes room."""

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import OmegaConf
from rich.filesize import decimal

from dua_lightning.errors import InputError
from dua_lightning.report.terminal import Column, Sheet, Terminal

if TYPE_CHECKING:
    from dua_lightning.store.store import Entry, Store

DIGITS = 12
"""Tables show so many digits of a digest: enough to tell entries apart, and to name one to `show`."""


def main(arguments: Sequence[str], paths: Path) -> int:
    """Run one of the store's commands.

    Args:
        arguments: The words of the command line.
        paths: The YAML file that names the default folders.

    Returns:
        The exit status.

    Raises:
        InputError: There is no such store or entry, or an entry is damaged.
    """
    given = _parser(paths).parse_args(arguments)
    # Torch takes seconds to load: help does without.
    from dua_lightning.store.store import Store

    if not given.root.is_dir():
        raise InputError(f"{given.root} is not a folder; name the store's by --root, or make a run that fills it")
    store = Store(given.root, data_dir=given.data)
    console = Terminal()
    if given.command == "list":
        console.print(table(store.entries(), f"store {given.root}"))
    elif given.command == "show":
        show(store, given.digest, console)
    elif given.command == "verify":
        return verify(store, console)
    else:
        gone = store.gc(given.keep_days, given.dry_run)
        would = "would be removed" if given.dry_run else "removed"
        console.print(table(gone, would) if gone else f"nothing {would}")
    return 0


def _parser(paths: Path) -> argparse.ArgumentParser:
    folders = OmegaConf.load(paths)
    parser = argparse.ArgumentParser(prog="dua store", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    of = {
        name: commands.add_parser(name, help=text, description=text)
        for name, text in {
            "list": "every entry with its size and when it was last used, experts with their task",
            "show": "what made an entry, and what is in it",
            "verify": "read everything and compare it with its digests; exit status 1 if anything is damaged",
            "gc": "remove what has not been used for a while, and what killed processes left",
        }.items()
    }
    of["show"].add_argument("digest", metavar="DIGEST", help="of the entry, or its first digits")
    of["gc"].add_argument("--keep-days", type=float, required=True, metavar="N", help="what was used since stays")
    of["gc"].add_argument("--dry-run", action="store_true", help="only say what would be removed")
    for name, folder, text in (
        ("--root", folders.store_dir, "the store (%(default)s)"),
        ("--data", folders.data_dir, "downloads and decoded pictures (%(default)s)"),
    ):
        for command in of.values():
            command.add_argument(name, type=Path, default=Path(os.path.expanduser(folder)), help=text)
    return parser


def table(entries: Sequence["Entry"], title: str) -> Sheet:
    """Make the table of entries for the terminal, experts with their task, with their sizes and the sum of them.

    Args:
        entries: The entries.
        title: The title.

    Returns:
        The table.
    """
    used = [time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used)) for entry in entries]
    columns = [
        Column("kind", [entry.kind for entry in entries], number=False, footer=f"{len(entries)} files"),
        Column("task", [_task(entry) for entry in entries], number=False),
        Column("digest", [entry.key.lstrip(".")[:DIGITS] for entry in entries], number=False),
        Column("size", [decimal(entry.bytes) for entry in entries], footer=decimal(sum(e.bytes for e in entries))),
        Column("last used", used, number=False),
    ]
    return Sheet(title, columns)


def _task(entry: "Entry") -> str:
    """Name the last task that an expert was trained on, or `joint`; other entries and lost files have none."""
    from dua_lightning.store.tensorfile import values

    if entry.kind != "experts":
        return ""
    try:
        made_of = values(entry.path)["made_of"]
        return str(made_of["data"][-1]["task"] if made_of["training"] == "sequential" else made_of["training"])
    except (InputError, LookupError, TypeError):
        return ""


def show(store: "Store", prefix: str, console: Terminal) -> None:
    """Print provenance and tensors of one entry.

    Args:
        store: The store.
        prefix: The first digits of its digest.
        console: The console that is printed to.

    Raises:
        InputError: There is none or more than one such entry, or it is damaged.
    """
    from dua_lightning.store.store import PICTURES, read

    found = [entry for entry in store.entries() if entry.kind != PICTURES and entry.key.startswith(prefix)]
    if len(found) != 1:
        several = ", ".join(entry.key[:DIGITS] for entry in found[:3])
        raise InputError(
            f"{prefix} is the start of {len(found)} digests ({several}, ..); give more of its digits"
            if found
            else f"no entry's digest starts with {prefix}; `dua store list` shows them"
        )
    (entry,) = found
    tensors, provenance = read(entry.path)
    console.print(f"{entry.kind} {entry.path}, {decimal(entry.bytes)}")
    console.print_json(json.dumps(provenance))
    columns = {
        "tensor": list(tensors),
        "type": [str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()],
        "shape": [" x ".join(map(str, tensor.shape)) for tensor in tensors.values()],
    }
    console.print(Sheet("", [Column(name, cells, number=False) for name, cells in columns.items()]))


def verify(store: "Store", console: Terminal) -> int:
    """Read every entry, and print each that is damaged.

    Args:
        store: The store.
        console: The console that is printed to.

    Returns:
        The exit status: 1 if an entry is damaged, else 0.
    """
    wrong = whole = 0
    for entry, problem in store.verify():
        if problem is None:
            whole += 1
        else:
            wrong += 1
            console.print(f"{entry.kind} {entry.key[:DIGITS]}: {problem}")
    console.print(f"{whole} whole, {wrong} damaged")
    return 1 if wrong else 0
