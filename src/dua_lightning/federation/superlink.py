"""The server's way to its devices: Flower's SuperLink behind a door of its own.

Since Flower 1.42 a SuperLink offers everything at one port: the Fleet API for devices, and beside it the Control API,
by which anybody may start code on the server or register a device, without any password. Here it listens on the
loopback address alone, and `door` passes on to it what devices ask for and nothing else.

Flower has no public functions to register devices and to start an app; those of its command line are used, and this
file and `supernode` alone know them.
"""

import hashlib
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from base64 import b64decode
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from dua_lightning.errors import InputError
from dua_lightning.federation.address import free_port
from dua_lightning.federation.keys import Card, Certificates, cards
from dua_lightning.federation.parcel import text
from dua_lightning.federation.serving import NODES, STATE
from dua_lightning.store.files import write_text

START = """\
import sys
from flwr.supercore.app_utils import start_parent_process_monitor
from flwr.superlink.cli import flower_superlink
start_parent_process_monitor(int(sys.argv.pop(1)))
flower_superlink()
"""
"""The program of the SuperLink, which ends when its parent has ended, however that was."""
STARTS = 60.0
"""Seconds that a SuperLink may take until it answers."""
KEY = "flwr-public-key"
"""The header with the public key of a device."""
BODY = 1 << 26
"""The most bytes of one request of a device; Flower cuts longer messages into pieces of a few megabytes."""
AT_ONCE = 64
"""So many requests are passed on at once; others are told at once to come again, before they would wait for long."""
ACTIVE = 32
"""A device comes in while fewer devices are active: those who are here go first."""
RECENT, ABSENT = 10.0, 90.0
"""Seconds after its last request in which a device is active, and in which it is here; one that is at work gives a
sign of life each 30."""
PATHS = (
    *("activate-node", "deactivate-node", "send-node-heartbeat", "pull-messages", "push-messages"),
    *("get-run", "get-fab", "pull-object", "push-object", "confirm-message-received"),
)
"""Requests that devices may make: the Fleet API without the registration of nodes, which is the operator's."""
APP = """\
[project]
name = "dua-lightning"
version = "1.0.0"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "dua"

[tool.flwr.app.components]
serverapp = "apps:server"
clientapp = "apps:client"
"""
"""The description of the app; its code is that of this package on either side."""
CODE = 'from dua_lightning.federation.flower import client, server\n\n__all__ = ["client", "server"]\n'
"""The app's one module."""


def environment(home: Path) -> dict[str, str]:
    """Give the environment of Flower's programs: nothing is reported, and no update is looked for.

    Args:
        home: Flower's folder.

    Returns:
        The variables, those of this process among them.
    """
    scripts = {
        str(Path(file.locate()).parent) for file in metadata.files("flwr") or () if file.name == "flower-superexec"
    }
    return {
        **os.environ,
        # The programs start each other by their names.
        "PATH": os.pathsep.join([*scripts, os.environ.get("PATH", "")]),
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
    }


class SuperLink:
    """A running SuperLink on the loopback address.

    Args:
        state: The server's folder.
        certificates: Its certificate.
        log: The file for its words.
    """

    def __init__(self, state: Path, certificates: Certificates, log: Path) -> None:
        self.state = state
        self.ca = certificates.ca
        self.port = free_port()
        home = state / "flower"
        home.mkdir(parents=True, exist_ok=True)
        variables = environment(home) | {STATE: str(state)}
        command = [
            *(sys.executable, "-c", START, str(os.getpid()), "--host", "127.0.0.1", "--port", str(self.port)),
            *("--ssl-ca-certfile", str(certificates.ca), "--ssl-certfile", str(certificates.certificate)),
            *("--ssl-keyfile", str(certificates.key), "--enable-supernode-auth"),
            *("--disable-runtime-dependency-installation", "--database", str(home / "link.db")),
        ]
        with log.open("ab") as words:
            self.process = subprocess.Popen(command, env=variables, stdout=words, stderr=words, start_new_session=True)
        self.keys: frozenset[bytes] = frozenset()
        self._cards: dict[str, Card] = {}
        self._files: dict[str, int] | None = None
        self._client: Any = None

    @property
    def url(self) -> str:
        """The address at which it listens."""
        return f"https://127.0.0.1:{self.port}"

    def wait(self) -> None:
        """Wait until it answers.

        Raises:
            InputError: It has ended, or takes too long.
        """
        end = time.monotonic() + STARTS
        with httpx.Client(verify=_trusting(self.ca)) as client:
            while time.monotonic() < end and self.process.poll() is None:
                with suppress(httpx.TransportError):
                    client.get(f"{self.url}/health")
                    return
                time.sleep(0.1)
        raise InputError(f"Flower's SuperLink does not start; {self.state / 'flower.log'} tells why")

    @property
    def control(self) -> Any:
        """The client of its Control API."""
        from flwr.supercore.control import ControlHttpClient
        from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

        if self._client is None:
            self._client = ControlHttpClient.from_server_address(
                server_address=f"127.0.0.1:{self.port}",
                insecure=False,
                root_certificates=self.ca.read_bytes(),
                interceptors=[RuntimeVersionHttpInterceptor(component_name="dua serve")],
            )
        return self._client

    def register(self) -> list[str]:
        """Register the devices whose cards are in the server's folder, and forget those whose cards are gone.

        Returns:
            The names of those who are new.

        Raises:
            InputError: A card cannot be used.
        """
        from cryptography.hazmat.primitives.serialization import load_ssh_public_key
        from flwr.proto.control_pb2 import ListNodesRequest, RegisterNodeRequest, UnregisterNodeRequest
        from flwr.supercore.primitives.asymmetric import public_key_to_bytes

        folder = self.state / "devices"
        files = {entry.name: entry.stat().st_mtime_ns for entry in os.scandir(folder)}
        if files == self._files:
            return []
        wanted = dict(cards(folder))
        there = {bytes(node.public_key): node.node_id for node in self.control.ListNodes(ListNodesRequest()).nodes_info}
        found: dict[int, Card] = {}
        for card in wanted.values():
            try:
                key = public_key_to_bytes(load_ssh_public_key(card.connection.encode()))
            except (ValueError, AttributeError) as error:
                raise InputError(f"the card of {card.name} has no key of a connection ({error})") from error
            if key not in there:
                there[key] = self.control.RegisterNode(RegisterNodeRequest(public_key=key, name=card.name)).node_id
            found[there[key]] = card
        for node in there.values():
            if node not in found:
                self.control.UnregisterNode(UnregisterNodeRequest(node_id=node))
        write_text(self.state / NODES, text({str(node): asdict(card) for node, card in found.items()}))
        self.keys = frozenset(key for key, node in there.items() if node in found)
        before, self._cards, self._files = self._cards, wanted, files
        return sorted(wanted.keys() - before.keys())

    def start(self) -> None:
        """Start the ServerApp, which lives until it is done or this SuperLink ends."""
        from flwr.cli.build import build_fab_from_disk
        from flwr.common.serde import fab_to_proto
        from flwr.proto.control_pb2 import StartRunRequest
        from flwr.supercore.fab import Fab

        app = self.state / "flower" / "app"
        app.mkdir(parents=True, exist_ok=True)
        write_text(app / "pyproject.toml", APP)
        write_text(app / "apps.py", CODE)
        bundle = build_fab_from_disk(app)
        fab = Fab(hashlib.sha256(bundle).hexdigest(), bundle, {})
        self.control.StartRun(StartRunRequest(fab=fab_to_proto(fab)))

    def end(self) -> None:
        """End it, with all programs that it has started."""
        if self._client is not None:
            self._client.close()
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def door(link: SuperLink, host: str, port: int, certificates: Certificates | None) -> Iterator[None]:
    """Listen for devices until the block ends, and pass on to the SuperLink what they may ask for.

    Args:
        link: The SuperLink.
        host: The name or address to listen at.
        port: The port.
        certificates: The server's certificate; `None` listens without encryption.

    Raises:
        InputError: It cannot listen.
    """
    config = uvicorn.Config(
        _app(link),
        host=host,
        port=port,
        log_level="critical",
        access_log=False,
        ssl_certfile=None if certificates is None else str(certificates.certificate),
        ssl_keyfile=None if certificates is None else str(certificates.key),
    )
    listening = uvicorn.Server(config)
    # Signals are the program's own business, and uvicorn takes none outside the main thread.
    thread = threading.Thread(target=listening.run, name="door", daemon=True)
    thread.start()
    while thread.is_alive() and not listening.started:
        time.sleep(0.05)
    if not listening.started:
        raise InputError(f"{host}:{port} cannot be listened at; name another address by --host and --port")
    try:
        yield
    finally:
        listening.should_exit = listening.force_exit = True
        thread.join(5)


def _app(link: SuperLink) -> Starlette:
    """The door: one route, and one client of the SuperLink.

    A SuperLink takes about as long for a request of a device that waits as for one of a device that works, so that of
    many who come at once none would be done; hence some are let in, and the others wait outside, which costs little.
    """
    held: dict[str, httpx.AsyncClient] = {}
    seen: dict[bytes, float] = {}
    under_way = 0

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        # The client looks at each connection that it keeps for each request.
        limits = httpx.Limits(max_connections=100, max_keepalive_connections=8)
        async with httpx.AsyncClient(base_url=link.url, verify=_trusting(link.ca), limits=limits, timeout=60) as client:
            held["client"] = client
            yield

    async def forward(request: Request) -> Response:
        nonlocal under_way
        if request.path_params["verb"] not in PATHS:
            return Response(status_code=404)
        # The SuperLink checks the signature; here a device without a card learns that it has none.
        key = b""
        with suppress(ValueError):
            key = b64decode(request.headers.get(KEY, ""))
        if key not in link.keys:
            return Response(status_code=403)
        now = time.monotonic()
        here = now - seen.get(key, -ABSENT) < ABSENT
        if under_way >= AT_ONCE or (not here and sum(now - last < RECENT for last in seen.values()) >= ACTIVE):
            return Response(status_code=503)
        seen[key] = now
        body = bytearray()
        async for piece in request.stream():
            body += piece
            if len(body) > BODY:
                return Response(status_code=413)
        headers = [(k, v) for k, v in request.headers.raw if k.lower() not in (b"host", b"content-length")]
        client = held["client"]
        sent = client.build_request("POST", request.url.path, headers=headers, content=bytes(body))
        under_way += 1
        try:
            got = await client.send(sent, stream=True)
        except (TimeoutError, httpx.TransportError):
            # Devices try again.
            return Response(status_code=503)
        finally:
            under_way -= 1
        kept = {k: v for k, v in got.headers.items() if k not in ("date", "server", "transfer-encoding", "connection")}
        return StreamingResponse(got.aiter_raw(), got.status_code, kept, background=BackgroundTask(got.aclose))

    return Starlette(routes=[Route("/v1/fleet/{verb}", forward, methods=["POST"])], lifespan=lifespan)


def _trusting(ca: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(ca))
