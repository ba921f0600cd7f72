"""The door in front of Flower's SuperLink: what devices may ask for, and nothing else."""

from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("uvicorn", reason="the extra federation is not installed")
pytest.importorskip("starlette", reason="the extra federation is not installed")
pytest.importorskip("cryptography", reason="the extra federation is not installed")

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


@pytest.mark.parametrize("headers", [{}, {superlink.KEY: b64encode(b"unknown").decode()}, {superlink.KEY: ""}])
def test_a_device_without_a_card_is_refused(door: TestClient, headers: dict[str, str]) -> None:
    assert door.post("/v1/fleet/pull-messages", headers=headers).status_code == 403


def test_a_body_that_is_too_large_is_refused(door: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(superlink, "BODY", 100)
    assert door.post("/v1/fleet/push-messages", headers=KNOWN, content=b"x" * 101).status_code == 413


def test_a_device_comes_again_where_the_superlink_does_not_answer(door: TestClient) -> None:
    assert door.post("/v1/fleet/push-messages", headers=KNOWN, content=b"x" * 100).status_code == 503
