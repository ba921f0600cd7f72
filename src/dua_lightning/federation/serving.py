"""Files by which the processes of a server tell each other things."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel

from dua_lightning.federation.keys import Card
from dua_lightning.federation.parcel import parsed

STATE = "DUA_SERVER_STATE"
"""The environment variable by which the ServerApp is told its folder."""
NODES = "nodes.json"
"""The file of a server's folder that says which node is whose."""
SETTINGS, ENDED, LINES = "serve.json", "ended.json", "progress.log"
"""The files with the settings of the command line, with the end of the ServerApp, and with its lines."""


class Serving(BaseModel):
    """The settings of the command line, as `serve.json` in its folder.

    Args:
        pid: The number of the process of the command line, without which nobody serves.
        run: The folder of the run.
        row: The label of the row.
        seed: The seed.
        draw: The draw of users' halves.
        times: The factor by which a user's prior may be larger than the server's own.
        exchange: The folder that both sides reach.
        large: Files above so many bytes go through the exchange folder.
        until: The number of users with a model at which it ends.
    """

    pid: int
    run: Path
    row: str | None = None
    seed: int | None = None
    draw: int = 1
    times: float | None = None
    exchange: Path | None = None
    large: int = 0
    until: int | None = None


def nodes(state: Path) -> Mapping[int, Card]:
    """Read which node is whose.

    Args:
        state: The server's folder.

    Returns:
        The cards of the devices by the numbers of their nodes.
    """
    with suppress(FileNotFoundError):
        found = parsed((state / NODES).read_text(encoding="utf-8"))
        return {int(node): Card(**card) for node, card in found.items()}
    return {}
