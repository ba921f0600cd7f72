"""Flower's two apps: thin adapters between its messages and the parts of server and device.

A message has one `ConfigRecord` with the words as JSON, with small files as bytes and, for files above a size, with
their references; and one `ArrayRecord` with the other files, if there are any. Nothing is unpickled.
"""

import os
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from dua_lightning.errors import InputError
from dua_lightning.federation.device import Device
from dua_lightning.federation.keys import PRIORS, Card
from dua_lightning.federation.parcel import Parcel, fetch, parsed, refer, references, text
from dua_lightning.federation.server import Server
from dua_lightning.federation.serving import ENDED, LINES, SETTINGS, STATE, Serving, nodes
from dua_lightning.store.files import write_text

ABOUT, FILES = "about", "files"
"""The names of a message's records."""
SMALL = 1 << 20
"""Files of at most so many bytes go with the words, since Flower moves each record and each array by itself."""
FILE = "file "
"""The beginning of the name under which such a file is in the `ConfigRecord`."""
BYTES = "bytes"
"""The word by which an array says that it has the bytes of a file."""
MOST = 1 << 33
"""The most bytes of a file that are taken from an exchange folder."""
POLL = 0.5
"""Seconds between two looks of the server at its devices."""
LAST = ("done", "refuse")
"""Words after which a device goes without an answer."""
PATIENCE = 60.0
"""Seconds after which a device that is here and has not answered is asked once more."""


def pack(parcel: Parcel, exchange: Path | None = None, large: int = 0) -> RecordDict:
    """Turn a parcel into the content of a message.

    Args:
        parcel: The parcel.
        exchange: The folder that both sides reach; with `None` all files go into the message.
        large: Files above so many bytes go through the exchange folder.

    Returns:
        The records.

    Raises:
        InputError: The exchange folder cannot be written to.
    """
    referred = {
        name: refer(name, path, exchange).model_dump()
        for name, path in parcel.files.items()
        if exchange is not None and path.stat().st_size > large
    }
    inside = {name: path.read_bytes() for name, path in parcel.files.items() if name not in referred}
    words = {"words": text(dict(parcel.about)), "references": text([*referred.values()])}
    small = {FILE + name: b for name, b in inside.items() if len(b) <= SMALL}
    records = RecordDict({ABOUT: ConfigRecord({**words, **small})})
    arrays = {
        name: Array(dtype="uint8", shape=(len(b),), stype=BYTES, data=b) for name, b in inside.items() if len(b) > SMALL
    }
    if arrays:
        records[FILES] = ArrayRecord(arrays)
    return records


def unpack(records: RecordDict, folder: Path, exchange: Path | None = None, most: int = MOST) -> Parcel:
    """Turn the content of a message into a parcel, whose files are written into a folder.

    Args:
        records: The records.
        folder: The folder.
        exchange: The folder that both sides reach.
        most: The most bytes of a file that are taken.

    Returns:
        The parcel.

    Raises:
        InputError: The message is none of this program's, or a file is not what it says.
    """
    about, arrays = records.get(ABOUT), records.get(FILES, ArrayRecord())
    if not isinstance(about, ConfigRecord) or not isinstance(arrays, ArrayRecord):
        raise InputError("a message of another program has come; install the same version on both sides")
    words = parsed(str(about.get("words", "")))
    contents = {name: array.data for name, array in arrays.items()}
    contents |= {
        key.removeprefix(FILE): value
        for key, value in about.items()
        if key.startswith(FILE) and isinstance(value, bytes)
    }
    files: dict[str, Path] = {}
    for name, content in contents.items():
        files[name] = folder / _plain(name)
        files[name].write_bytes(content)
    for reference in references(str(about.get("references", "[]"))):
        files[reference.name] = folder / _plain(reference.name)
        fetch(reference, exchange, files[reference.name], most)
    return Parcel(words, files)


def _plain(name: str) -> str:
    """The name of a file, which must lead to no other folder."""
    if not name or name != Path(name).name or name.startswith("."):
        raise InputError(f"a message has a file of the name {name!r}, which is none")
    return name


@dataclass(frozen=True)
class _Asked:
    """A message that was sent to a node."""

    node: int
    verb: str
    since: float


client = ClientApp()
server = ServerApp()


@client.train()  # type: ignore[untyped-decorator]
def answer(message: Message, context: Context) -> Message:
    """Answer a message of the server's, on the device that the node's configuration describes.

    Args:
        message: The server's message.
        context: The context; its `node_config` has `state`, `images`, `name`, and perhaps `exchange`, `large`, `code`
            and `threads`.

    Returns:
        The answer.
    """
    config = context.node_config
    device = device_of(tuple(sorted(config.items())))
    exchange = Path(str(config["exchange"])) if config.get("exchange") else None
    torch.set_num_threads(int(config.get("threads", 1)))
    with tempfile.TemporaryDirectory(dir=device.state) as folder:
        try:
            answered = device.answer(unpack(message.content, Path(folder), exchange))
        except InputError as error:
            device.refused = str(error)
            answered = Parcel({"verb": "failed"}, {})
        return Message(pack(answered, exchange, int(config.get("large", 0))), reply_to=message)


@cache
def device_of(config: tuple[tuple[str, Any], ...]) -> Device:
    """Make the device of a node's configuration, once.

    Args:
        config: The sorted items of the configuration; see `answer`.

    Returns:
        The device.
    """
    given = dict(config)
    state = Path(str(given["state"]))
    code = tuple(filter(None, str(given.get("code", "")).split(",")))
    return Device(state, Path(str(given["images"])), str(given["name"]), state / PRIORS, code, _say)


def _say(line: str) -> None:
    """Print a line at once, for whoever reads a pipe."""
    print(line, flush=True)  # noqa: T201


@server.main()  # type: ignore[untyped-decorator]
def serve(grid: Grid, context: Context) -> None:
    """Serve the devices that the folder of the environment variable `DUA_SERVER_STATE` names.

    Args:
        grid: Flower's way to the devices.
        context: The context of the run, which is not needed.
    """
    state = Path(os.environ[STATE])
    serving = Serving.model_validate_json((state / SETTINGS).read_bytes())
    log = state / LINES
    threading.Thread(target=_end_with, args=(serving.pid,), daemon=True).start()

    def say(line: str) -> None:
        with log.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")

    try:
        part = Server(serving.run, state, serving.row, serving.seed, serving.draw, serving.times, say)
        say("ready")
        rounds(part, grid, serving, say)
        write_text(state / ENDED, text({"error": ""}))
    except Exception as error:
        write_text(state / ENDED, text({"error": " ".join(str(error).split()) or type(error).__name__}))
        raise


def _end_with(pid: int) -> None:
    """End this process when another has ended, however that was. All that it has done is in its folder."""
    while True:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            os._exit(1)
        time.sleep(POLL)


def rounds(part: Server, grid: Grid, serving: Serving, say: Callable[[str], None]) -> None:
    """Ask devices and take their answers until enough users have their models.

    Args:
        part: The server's part.
        grid: Flower's way to the devices.
        serving: The settings of the command line.
        say: A function that is given a line for each thing that is done.
    """
    asked: dict[str, _Asked] = {}
    before: dict[int, float] = {}
    while True:
        now = time.monotonic()
        known = nodes(part.state)
        here = {node: before.get(node, now) for node in grid.get_node_ids() if node in known}
        for node in sorted(here.keys() - before.keys()):
            part.came(known[node].name)
            say(f"{known[node].name}: is here")
        for node in sorted((before.keys() - here.keys()) & known.keys()):
            say(f"{known[node].name}: has gone")
        before = here
        # Whoever has come again has forgotten what was asked before; an answer that comes late is taken all the same.
        # Where many are here each of them waits for its turn.
        asked = {
            one: of
            for one, of in asked.items()
            if now - of.since < 10 * PATIENCE and (of.verb not in LAST or of.node in here)
        }
        busy = {of.node for of in asked.values() if max(now - PATIENCE - len(here), here.get(of.node, now)) <= of.since}
        for node in sorted(here.keys() - busy):
            request = _request(part, known[node].name, say)
            if request is not None:
                content = pack(request, serving.exchange, serving.large)
                (one,) = grid.push_messages([Message(content, dst_node_id=node, message_type="train")])
                asked[one] = _Asked(node, request.verb, now)
                busy.add(node)
        awaited = [one for one, of in asked.items() if of.verb not in LAST]
        for reply in grid.pull_messages(awaited) if awaited else ():
            of = asked.pop(reply.metadata.reply_to_message_id)
            busy.discard(of.node)
            if of.node in known:
                _receive(part, known[of.node], reply, serving.exchange, say)
        if serving.until is not None and not busy:
            finished = [part.progress(card.name) for card in known.values()]
            if sum(at.stage == "finished" and at.told for at in finished) >= serving.until:
                return
        time.sleep(POLL)


def _request(part: Server, name: str, say: Callable[[str], None]) -> Parcel | None:
    try:
        return part.request(name)
    except InputError as error:
        say(f"{name}: {error}")
        part.failed(name)
        return None


def _receive(part: Server, card: Card, reply: Message, exchange: Path | None, say: Callable[[str], None]) -> None:
    if reply.has_error():
        say(f"{card.name}: did not answer ({reply.error.reason})")
        return
    with tempfile.TemporaryDirectory(dir=part.state) as folder:
        try:
            part.receive(card.name, unpack(reply.content, Path(folder), exchange), card.priors)
        except InputError as error:
            say(f"{card.name}: {error}")
            part.failed(card.name)
