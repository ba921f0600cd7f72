"""A device that merges by itself: the run's model bit for bit, and nothing of the pictures is sent."""

from pathlib import Path

import pytest

from dua_lightning.errors import InputError
from dua_lightning.federation.device import Device
from dua_lightning.federation.server import Server
from dua_lightning.personal import load, personal_models
from dua_lightning.store.tensorfile import fingerprint
from tests.personal import runs

ROWS = (
    "method.rows=[{method: racl, importance: mas, merge.where: device, adapt: adabn}, "
    "{method: racl, importance: mas, merge.where: device, statistics: mean}]"
)
ADAPTED = "MAS-RACL, merged on the device + AdaBN"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("where")
    runs.run(folder, "method=all", ROWS, *runs.OWN)
    return folder


@pytest.mark.parametrize("row", [ADAPTED, "MAS-RACL, merged on the device, mean statistics"])
def test_the_device_merges_to_the_runs_model_and_sends_nothing(row: str, folder: Path, tmp_path: Path) -> None:
    server = Server(folder / "run", tmp_path / "server", row)
    ann = Device(tmp_path / "ann", folder / "pictures/users/ann", "ann", tmp_path / "key", code=("tests",))
    answers = []
    while (asked := server.request("ann")) is not None:
        answers.append((asked.verb, ann.answer(asked)))
        server.receive("ann", answers[-1][1], None)
    assert [(verb, answer.verb) for verb, answer in answers] == [
        ("merge", "finished"),
        ("done", "done"),
    ]
    assert not any(answer.files for _, answer in answers)
    progress = server.progress("ann")
    assert (progress.stage, progress.up) == ("finished", 0)
    assert not (tmp_path / "server/users/ann/merged").exists()
    assert ann.finished is not None
    (expected,) = personal_models(folder / "run", "ann", row)
    model = load(ann.finished, code=("tests",))
    assert (model.user, model.row, model.tasks) == (expected.user, expected.row, expected.tasks)
    assert model.provenance["pictures"] == expected.provenance["pictures"]
    for task in expected.tasks:
        assert fingerprint(model.states[task.name]) == fingerprint(expected.states[task.name])


@pytest.mark.parametrize("verb", ["psi", "chi", "statistics", "release"])
def test_code_of_another_package_is_not_called(verb: str, folder: Path, tmp_path: Path) -> None:
    server = Server(folder / "run", tmp_path / "server", ADAPTED)
    server.plan.settings[verb] = {"_target_": "os.system", "command": f"touch {tmp_path / 'called'}"}
    ann = Device(tmp_path / "ann", folder / "pictures/users/ann", "ann", tmp_path / "key", code=("tests",))
    while (asked := server.request("ann")) is not None:
        server.receive("ann", ann.answer(asked), None)
    assert ann.finished is None
    assert ann.refused is not None
    assert "os.system, which is code from outside" in ann.refused
    assert not (tmp_path / "called").exists()


def test_what_is_encrypted_in_a_simulation_is_not_served(tmp_path: Path) -> None:
    pytest.importorskip("tenseal", reason="tenseal is not installed")
    runs.run(tmp_path, "method=racl", "merge.where=encrypted", *runs.OWN)
    with pytest.raises(InputError, match=r"simulations alone; run with merge\.where=device"):
        Server(tmp_path / "run", tmp_path / "server")
