"""`dua serve` and `dua device` refuse what they cannot use in one line, before they start anything."""

import socket
from pathlib import Path

import pytest

from tests.helpers import cli

pytest.importorskip("cryptography")


@pytest.fixture
def flower(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower seems to be there; no test here comes so far as to need it."""
    for command in ("serve", "device"):
        monkeypatch.setattr(f"dua_lightning.commands.{command}.find_spec", lambda name: object())


@pytest.mark.usefixtures("flower")
def test_a_device_refuses_what_it_cannot_use(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def refused(*arguments: str) -> str:
        done = cli.run("device", *arguments, capfd=capfd, monkeypatch=monkeypatch)
        assert cli.refused(done), done
        return done.err

    assert "takes --images DIR or --name NAME" in refused()
    server = ("--server", "127.0.0.1:1")
    assert "is not a folder" in refused(*server, "--images", "ann")
    Path("ann").mkdir()
    assert "has no pictures" in refused(*server, "--images", "ann")
    Path("ann/a.jpg").write_bytes(b"a")
    assert "--threads 0 cannot be used" in refused(*server, "--images", "ann", "--threads", "0")
    assert "ca.crt is not there" in refused(*server, "--images", "ann")
    Path("ca.crt").write_bytes(b"")
    assert "has no keys; make them by dua device --new-keys" in refused(*server, "--images", "ann", "--ca", "ca.crt")
    done = cli.run("device", "--new-keys", "--name", "ann", capfd=capfd, monkeypatch=monkeypatch)
    assert done.status == 0
    assert done.out.strip().endswith("device-ann/ann.json")
    assert "no server answers at 127.0.0.1:1" in refused(*server, "--images", "ann", "--ca", "ca.crt")


@pytest.mark.usefixtures("flower")
def test_a_server_refuses_what_it_cannot_use(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*arguments: str) -> str:
        done = cli.run("serve", *arguments, capfd=capfd, monkeypatch=monkeypatch)
        assert cli.refused(done), done
        return done.err

    assert "is not the folder of a run" in refused(str(tmp_path))
    assert "--port 0 cannot be used" in refused(str(tmp_path), "--port", "0")
    assert "--until 0 cannot be used" in refused(str(tmp_path), "--until", "0")


def test_an_address_that_is_taken_is_refused() -> None:
    from dua_lightning.errors import InputError
    from dua_lightning.federation.address import refuse_taken

    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(InputError, match="cannot be listened at"):
        refuse_taken("127.0.0.1", taken.getsockname()[1])
