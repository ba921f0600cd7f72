"""The door in front of Flower's SuperLink: what devices may ask for, and nothing else."""

import asyncio
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("uvicorn", reason="the extra federation is not installed")
pytest.importorskip("starlette", reason="the extra federation is not installed")
pytest.importorskip("cryptography", reason="the extra federation is not installed")

import httpx
from starlette.testclient import TestClient

from dua_lightning.federation import superlink
from dua_lightning.federation.address import free_port
from dua_lightning.federation.keys import certificates

pytestmark = pytest.mark.devices
KNOWN = {superlink.KEY: b64encode(b"known").decode()}


@pytest.fixture
def door(tmp_path: Path) -> Iterator[TestClient]:
    """The door of a SuperLink that has died."""
    ca = certificates(tmp_path, "127.0.0.1").ca
    link = SimpleNamespace(url=f"https://127.0.0.1:{free_port()}", ca=ca, keys=frozenset({b"known"}))
    with TestClient(superlink._app(link)) as client:
        yield client


@pytest.mark.parametrize(
    "path", ["/v1/control/start-run", "/v1/control/register-node", "/v1/fleet/register-node", "/v1/runtime/push", "/"]
)
def test_nobody_reaches_more_than_devices_need(door: TestClient, path: str) -> None:
    assert door.post(path, headers=KNOWN).status_code == 404


@pytest.mark.parametrize(
    "headers", [{}, *({superlink.KEY: key} for key in (b64encode(b"unknown").decode(), "", "no base 64", "abcde"))]
)
def test_a_device_without_a_card_is_refused(door: TestClient, headers: dict[str, str]) -> None:
    assert door.post("/v1/fleet/pull-messages", headers=headers).status_code == 403


def test_a_body_that_is_too_large_is_refused(door: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(superlink, "BODY", 100)
    assert door.post("/v1/fleet/push-messages", headers=KNOWN, content=b"x" * 101).status_code == 413


def test_a_device_comes_again_where_the_superlink_does_not_answer(door: TestClient) -> None:
    assert door.post("/v1/fleet/push-messages", headers=KNOWN, content=b"x" * 100).status_code == 503


def test_whoever_is_here_goes_before_those_who_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ca = certificates(tmp_path, "127.0.0.1").ca
    link = SimpleNamespace(
        url="https://127.0.0.1:1", ca=ca, keys=frozenset(bytes([device]) for device in range(2 * superlink.ACTIVE))
    )
    now = [0.0]
    monkeypatch.setattr(superlink, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(superlink, "AT_ONCE", 4 * superlink.ACTIVE)

    async def statuses() -> None:
        answers = asyncio.Event()

        async def send(client: httpx.AsyncClient, request: httpx.Request, **more: object) -> httpx.Response:
            await answers.wait()
            return httpx.Response(200, stream=httpx.ByteStream(b""), request=request)

        monkeypatch.setattr(httpx.AsyncClient, "send", send)
        app = superlink._app(link)
        asked: list[asyncio.Task[httpx.Response]] = []

        async def ask(*devices: int) -> list[asyncio.Task[httpx.Response]]:
            headers = [{superlink.KEY: b64encode(bytes([device])).decode()} for device in devices]
            requests = [httpx.Request("POST", "https://door/v1/fleet/pull-messages", headers=of) for of in headers]
            transport = httpx.ASGITransport(app)
            tasks = [asyncio.create_task(transport.handle_async_request(request)) for request in requests]
            asked.extend(tasks)
            await asyncio.sleep(0.1)
            return tasks

        def sent_away(tasks: list[asyncio.Task[httpx.Response]]) -> list[bool]:
            """Whether each has its answer already, since the SuperLink gives none now."""
            return [task.done() and task.result().status_code == 503 for task in tasks]

        async with app.router.lifespan_context(app):
            some, others = range(superlink.ACTIVE), range(superlink.ACTIVE, 2 * superlink.ACTIVE)
            assert not any(sent_away(await ask(*some)))
            assert all(sent_away(await ask(*others)))
            assert not any(sent_away(await ask(*some)))
            # Those who are at work are quiet, and make room; when they come back they are let in all the same.
            now[0] += superlink.RECENT
            assert not any(sent_away(await ask(*others)))
            assert not any(sent_away(await ask(*some)))
            # Too many requests are under way for anybody.
            assert all(sent_away(await ask(some[0], others[0])))
            answers.set()
            assert {(await task).status_code for task in asked} == {200, 503}
            assert not any(sent_away(await ask(some[0], others[0])))
            # Whoever has gone for long is a newcomer.
            now[0] += superlink.ABSENT
            assert not any(sent_away(await ask(*some)))
            assert all(sent_away(await ask(*others)))
            answers.set()
            await asyncio.gather(*asked)

    asyncio.run(statuses())
