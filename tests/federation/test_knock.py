"""The first words of a device at a server's door, and its last."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("flwr", reason="the extra federation is not installed")

from flwr.app import Message
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.task_identity import TaskIdentity

from dua_lightning.errors import InputError
from dua_lightning.federation import superlink, supernode
from dua_lightning.federation.address import free_port
from dua_lightning.federation.flower import pack
from dua_lightning.federation.keys import certificates, connection_key, new_device
from dua_lightning.federation.parcel import Parcel

pytestmark = pytest.mark.devices

Open = Callable[[Path | None], str]


def keys(folder: Path, name: str) -> tuple[Any, Any]:
    """The pair of keys of a device's connection."""
    new_device(folder / name, name)
    private = connection_key(folder / name)
    return private, private.public_key()


@pytest.fixture
def doors() -> Iterator[ExitStack]:
    """The open doors, which close with the test."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def opened(doors: ExitStack, tmp_path: Path) -> Open:
    """A way to open a door that knows ann, whose SuperLink does not answer. It is given a folder for certificates,
    without which it is not encrypted, and gives the address."""

    def door(state: Path | None) -> str:
        made = certificates(state or tmp_path / "unused", "127.0.0.1")
        known = frozenset({public_key_to_bytes(keys(tmp_path, "ann")[1])})
        link: Any = SimpleNamespace(url=f"https://127.0.0.1:{free_port()}", ca=made.ca, keys=known)
        port = free_port()
        doors.enter_context(superlink.door(link, "127.0.0.1", port, made if state else None))
        return f"127.0.0.1:{port}"

    return door


def knock(folder: Path, name: str, server: str, ca: Path | None) -> list[str]:
    """Knock as a device; the lines that it says."""
    said: list[str] = []
    supernode._knock(server, ca and str(ca), keys(folder, name), folder / name / "node.txt", said.append)
    return said


@pytest.mark.parametrize("encrypted", [True, False])
def test_a_device_without_a_card_is_told_so(encrypted: bool, opened: Open, tmp_path: Path) -> None:
    server = opened(tmp_path / "server" if encrypted else None)
    with pytest.raises(InputError, match=r"does not know the key of this device; have its operator put the card .*bob"):
        knock(tmp_path, "bob", server, tmp_path / "server" / "ca.crt" if encrypted else None)


@pytest.mark.parametrize("encrypted", [True, False])
def test_a_server_of_another_authority_is_refused(encrypted: bool, opened: Open, tmp_path: Path) -> None:
    server = opened(tmp_path / "server" if encrypted else None)
    other = certificates(tmp_path / "other", "127.0.0.1").ca
    with pytest.raises(InputError, match=r"is no dua serve of the authority .*give the server's ca.crt by --ca FILE"):
        knock(tmp_path, "ann", server, other)


def test_a_device_waits_for_its_turn_ever_longer_also_while_the_server_starts_anew(
    opened: Open, doors: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SuperLink behind the door does not answer, so that the door sends everybody away; then the door goes."""
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 5:
            doors.close()
        if len(waits) == 10:
            raise TimeoutError

    said: list[str] = []
    server = opened(tmp_path / "server")
    monkeypatch.setattr(supernode, "time", SimpleNamespace(sleep=sleep))
    monkeypatch.setattr(supernode, "random", SimpleNamespace(uniform=lambda low, high: high))
    ann = keys(tmp_path, "ann")
    with pytest.raises(TimeoutError):
        supernode._knock(server, str(tmp_path / "server" / "ca.crt"), ann, tmp_path / "node.txt", said.append)
    assert said == [f"{server} is busy; waiting for a turn"]
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (1.5 * supernode.LATER[0], 1.5 * supernode.LATER[1])


@pytest.mark.parametrize("last", [False, True])
def test_nobody_answers_the_last_message(last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # The identity of a server app, which alone may begin a message.
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    message = Message(pack(Parcel({"verb": "any"}, {})), dst_node_id=1, message_type="train")
    message.metadata.__dict__["_message_id"] = "message"
    device: Any = SimpleNamespace(done=False)
    sent: list[Message] = []

    def client(message: Message, context: object) -> Message:
        device.done = last
        return Message(pack(Parcel({"verb": "any"}, {})), reply_to=message)

    def send(reply: Message, tree: object, seconds: float) -> tuple[set[str], str]:
        sent.append(reply)
        return set(), ""

    monkeypatch.setattr(supernode, "client", client)
    monkeypatch.setattr(supernode, "iterate_object_tree", lambda tree: [])
    monkeypatch.setattr(supernode, "inflate_object_from_contents", lambda name, contents: message)
    got = message, SimpleNamespace(object_id="message")
    supernode._answered(got, device, 1, {}, send, lambda *of: b"", lambda *of: None, lambda *of: None)
    assert len(sent) == (0 if last else 1)
