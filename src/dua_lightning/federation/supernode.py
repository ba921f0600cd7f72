"""The device's way to its server: Flower's connection of a SuperNode, in this process.

A SuperNode of Flower's imports the app that its server sends, so that a server may run any code on a device. Here the
connection is Flower's, and the app is that of this package: no code of the server's runs, and no process is started for
a message. Flower has no public functions for that; this file and `superlink` alone know its inner ones.
"""

import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
from flwr.app import Context, Message, RecordDict
from flwr.proto.fleet_pb2 import DeactivateNodeRequest
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectPushError,
    inflate_object_from_contents,
    pull_objects,
    push_object_contents_from_iterable,
)
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.run import RunNotRunningException
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.fleet_http_connection import http_request_response
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from dua_lightning.errors import InputError
from dua_lightning.federation.address import refuse_silent
from dua_lightning.federation.device import Device
from dua_lightning.federation.flower import client, device_of
from dua_lightning.federation.keys import connection_key
from dua_lightning.store.files import write_text

POLLS = (0.5, 5.0)
"""Seconds between two looks for a message: at first, and after a while without any."""
BUSY, LONGEST = 30.0, 8.0
"""A server that answers slowly has many devices: so many times the time of its answer, and at most so many seconds."""
LATER = (2.0, 30.0)
"""Seconds after which a device comes again that a busy server has sent away: at first, and after many times."""
SEEN = 2.0
"""Seconds in which a server sees that a device has gone."""
NODE = "node.txt"
"""The file with the number by which the server knew this device last."""


def run(
    server: str,
    config: Mapping[str, Any],
    ca: Path | None,
    ended: Callable[[Device], bool],
) -> Device:
    """Answer the server's messages until the device is done.

    Args:
        server: `HOST:PORT`.
        config: The configuration of the node; see `flower.answer`.
        ca: The certificate of the server's authority; `None` goes without encryption.
        ended: Tells after each answer whether the device is done.

    Returns:
        The device.

    Raises:
        InputError: The server does not answer, is another one, or does not know this device.
    """
    device = device_of(tuple(sorted(config.items())))
    private = connection_key(device.state)
    refuse_silent(server)
    trusted = None if ca is None else str(ca)
    keys = private, private.public_key()
    place = device.state / NODE
    _knock(server, trusted, keys, place, device.say)
    try:
        with http_request_response(server, ca is None, trusted, keys) as connection:
            node, receive, send, _, _, pull, push, confirm = connection
            write_text(place, f"{node}\n")
            device.say(f"connected to {server}")
            wait = POLLS[0]
            while True:
                began = time.monotonic()
                got = receive()
                if got is None:
                    time.sleep(max(wait, min(BUSY * (time.monotonic() - began), LONGEST)))
                    wait = min(wait * 1.5, POLLS[1])
                    continue
                wait = POLLS[0]
                try:
                    _answered(got, device, node, config, send, pull, push, confirm)
                except (RunNotRunningException, ObjectPullError, ObjectPushError):
                    # A server that has started anew asks again by itself.
                    device.say("the server has started anew")
                    continue
                if ended(device):
                    return device
        raise InputError(f"the connection to {server} has ended; start the device again, it goes on where it was")
    except SystemExit as error:
        raise InputError(f"{server} does not take this device now; start it again in a minute") from error


def _knock(server: str, ca: str | None, keys: tuple[Any, Any], place: Path, say: Callable[[str], None]) -> None:
    """Wait until the right server lets this device in, and end a connection that an earlier process has left.

    Flower itself would wait a minute for that process, and has one message for all reasons.
    """
    node = int(place.read_text(encoding="utf-8")) if place.is_file() else 0
    interceptors = [RuntimeVersionHttpInterceptor(component_name="SuperNode"), NodeAuthHttpInterceptor(*keys)]
    wait = 0.0
    with FleetHttpClient.from_server_address(server, ca is None, ca, interceptors=interceptors) as client:
        while True:
            try:
                client.DeactivateNode(DeactivateNodeRequest(node_id=node))
                # The server sees that the earlier process has gone, and asks this one anew.
                time.sleep(SEEN)
                return
            except httpx.HTTPStatusError as error:
                if error.response.status_code == httpx.codes.FORBIDDEN:
                    raise InputError(
                        f"{server} does not know the key of this device; have its operator put the card "
                        f"{place.parent}/NAME.json into the server's folder devices"
                    ) from error
                if error.response.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                    return
            except httpx.TransportError as error:
                # Whoever waits has had an answer of the right server, which starts anew now.
                if not wait:
                    raise InputError(
                        f"{server} is no dua serve of the authority {ca} ({' '.join(str(error).split())}); give the "
                        "server's ca.crt by --ca FILE"
                    ) from error
            if not wait:
                say(f"{server} is busy; waiting for a turn")
            wait = min(max(1.5 * wait, LATER[0]), LATER[1])
            # Those who were sent away together do not come again together.
            time.sleep(wait * random.uniform(0.5, 1.5))


def _answered(
    got: tuple[Message, Any],
    device: Device,
    node: int,
    config: Mapping[str, Any],
    send: Callable[..., tuple[set[str], str]],
    pull: Callable[[int, str], bytes],
    push: Callable[[int, str, str, bytes], None],
    confirm: Callable[[int, str], None],
) -> None:
    """Read the rest of a message, answer it and send the answer, unless it was the last message."""
    head, tree = got
    run_id = head.metadata.run_id
    wanted = [one.object_id for one in iterate_object_tree(tree)]
    contents = pull_objects(wanted, pull_object_fn=lambda one: pull(run_id, one))
    message = inflate_object_from_contents(tree.object_id, contents)
    assert isinstance(message, Message)
    message.metadata.__dict__["_message_id"] = tree.object_id
    confirm(run_id, tree.object_id)
    context = Context(run_id=run_id, node_id=node, node_config=dict(config), state=RecordDict(), run_config={})
    began = time.monotonic()
    reply = client(message=message, context=context)
    if device.done:
        return
    reply.metadata.__dict__["_message_id"] = reply.object_id
    with no_object_id_recompute():
        objects = get_all_nested_objects(reply)
        tree = get_object_tree(reply)
        lacking, session = send(reply, tree, time.monotonic() - began)
        found = ((one, objects[one].deflate()) for one in lacking)
        push_object_contents_from_iterable(
            found, push_object_fn=lambda one, content: push(run_id, session, one, content)
        )
