"""The server's and the device's part, handed parcels from one to the other in one process."""

from pathlib import Path

import pytest

from dua_lightning.federation.device import Device
from dua_lightning.federation.server import Server
from dua_lightning.personal import load, personal_models
from dua_lightning.privacy.keys import new_key, public_key
from dua_lightning.store.tensorfile import fingerprint
from tests.personal import runs

pytest.importorskip("cryptography")

ROWS = "method.rows=[{method: mean_imm}, {method: racl, importance: mas, adapt: adabn}]"
ADAPTED = "MAS-RACL + AdaBN"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two rows, and keys of ann and bob."""
    folder = tmp_path_factory.mktemp("federation")
    runs.run(folder, "method=all", ROWS, *runs.OWN)
    for name in ("ann", "bob"):
        new_key(folder / f"{name}.key")
    return folder


def device(folder: Path, state: Path, name: str = "ann", pictures: Path | None = None) -> Device:
    images = pictures or folder / "pictures" / "users" / name
    return Device(state / name, images, name, folder / f"{name}.key", code=("tests",))


def served(server: Server, of: Device, key: str | None) -> list[str]:
    """Hand parcels to and fro until there is nothing to do; the verbs in their order."""
    verbs = []
    while (asked := server.request(of.name)) is not None:
        answer = of.answer(asked)
        verbs += [asked.verb, answer.verb]
        server.receive(of.name, answer, key)
    return verbs


def same_model(folder: Path, found: Path, row: str, name: str = "ann", draw: int = 1) -> None:
    """The model on the device has the bits of the run's own."""
    (expected,) = personal_models(folder / "run", name, row, draw=draw)
    model = load(found, code=("tests",))
    assert (model.user, model.row, model.tasks) == (expected.user, expected.row, expected.tasks)
    assert model.provenance["pictures"] == expected.provenance["pictures"]
    for task in expected.tasks:
        assert fingerprint(model.states[task.name]) == fingerprint(expected.states[task.name])


@pytest.mark.parametrize("draw", [1, 2])
@pytest.mark.parametrize("row", ["mean-IMM", ADAPTED])
def test_the_device_ends_with_the_runs_model_bit_for_bit(row: str, draw: int, folder: Path, tmp_path: Path) -> None:
    server = Server(folder / "run", tmp_path / "server", row, draw=draw)
    ann = device(folder, tmp_path)
    verbs = served(server, ann, public_key(folder / "ann.key.pub"))
    measured = ["measure", "lacks", "measure", "priors"] if row == ADAPTED else []
    assert verbs == [*measured, "adapt", "finished"]
    assert ann.finished is not None
    same_model(folder, ann.finished, row, draw=draw)
