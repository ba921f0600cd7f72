"""The server's and the device's part, handed parcels from one to the other in one process."""

import json
from pathlib import Path

import pytest

from dua_lightning.errors import InputError
from dua_lightning.federation import device as device_module
from dua_lightning.federation.device import EXPERTS, Device
from dua_lightning.federation.keys import cards, certificates, new_device
from dua_lightning.federation.parcel import Parcel, fetch, refer, references
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
    measured = ["measure", "priors"] if row == ADAPTED else []
    assert verbs == [*measured, "adapt", "finished", "done", "done"]
    assert ann.finished is not None
    same_model(folder, ann.finished, row, draw=draw)


def asked(server: Server, of: Device) -> Parcel:
    """The answer with the priors."""
    for _ in range(2):
        parcel = server.request(of.name)
        assert parcel is not None
        answer = of.answer(parcel)
        if answer.verb == "priors":
            return answer
        server.receive(of.name, answer, None)
    raise AssertionError


def test_a_second_answer_changes_nothing_and_a_server_goes_on_where_it_was(folder: Path, tmp_path: Path) -> None:
    key = public_key(folder / "ann.key.pub")
    server = Server(folder / "run", tmp_path / "server", ADAPTED)
    ann = device(folder, tmp_path)
    priors = asked(server, ann)
    server.receive("ann", priors, key)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "server" / "users").rglob("*.safetensors")}
    assert before
    server.receive("ann", priors, key)
    again = Server(folder / "run", tmp_path / "server", ADAPTED)
    assert again.progress("ann").stage == "merged"
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert served(again, device(folder, tmp_path), key) == ["adapt", "finished", "done", "done"]
    assert again.request("ann") is None


def test_a_device_that_has_lost_the_experts_is_sent_them_again(folder: Path, tmp_path: Path) -> None:
    server = Server(folder / "run", tmp_path / "server", ADAPTED)
    first = server.request("ann")
    assert first is not None
    assert EXPERTS.keys() <= first.files.keys()
    verbs = served(server, device(folder, tmp_path), public_key(folder / "ann.key.pub"))
    assert verbs == ["measure", "lacks", "measure", "priors", "adapt", "finished", "done", "done"]


def test_a_device_that_was_killed_sends_what_it_has(folder: Path, tmp_path: Path) -> None:
    server = Server(folder / "run", tmp_path / "server", ADAPTED)
    first = asked(server, device(folder, tmp_path))
    second = asked(server, device(folder, tmp_path))
    assert {name: path.read_bytes() for name, path in first.files.items()} == {
        name: path.read_bytes() for name, path in second.files.items()
    }


@pytest.mark.parametrize(
    ("key", "words"),
    [("bob", "signed by a key that the server does not know"), (None, "the norm")],
    ids=["another's key", "too large"],
)
def test_priors_that_are_none_are_refused_and_others_go_on(
    key: str | None, words: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    server = Server(folder / "run", tmp_path / "server", ADAPTED, say=said.append)
    ann, bob = device(folder, tmp_path), device(folder, tmp_path, "bob")
    with monkeypatch.context() as patch:
        if key is None:
            save = device_module.save_prior
            patch.setattr(
                device_module,
                "save_prior",
                lambda path, prior, *rest, **more: save(path, {k: v * 1e6 for k, v in prior.items()}, *rest, **more),
            )
        answers = served(server, ann, public_key(folder / f"{key or 'ann'}.key.pub"))
    assert answers[-2:] == ["refuse", "sorry"]
    assert ann.refused is not None
    assert words in ann.refused
    assert str(tmp_path) not in ann.refused
    assert len([line for line in said if "refused" in line]) == 1
    assert served(server, bob, public_key(folder / "bob.key.pub"))[-1] == "done"
    server.came("ann")
    assert served(server, device(folder, tmp_path / "new"), public_key(folder / "ann.key.pub"))[-1] == "done"


def test_a_device_cannot_send_priors_for_another(folder: Path, tmp_path: Path) -> None:
    said: list[str] = []
    server = Server(folder / "run", tmp_path / "server", ADAPTED, say=said.append)
    priors = asked(server, device(folder, tmp_path))
    server.receive("bob", priors, None)
    assert server.progress("bob").stage == "refused"
    assert said[-1] == "bob: the priors are from 'ann', and 'bob' has sent them"


def test_a_row_that_no_device_can_do_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the run has no row"):
        Server(folder / "run", tmp_path / "server", "nothing")
    with pytest.raises(InputError, match="draw=9 cannot be used"):
        Server(folder / "run", tmp_path / "server", ADAPTED, draw=9)


def test_a_file_through_the_exchange_folder_is_the_one_that_was_sent(tmp_path: Path) -> None:
    sent, exchange, into = tmp_path / "prior", tmp_path / "exchange", tmp_path / "into"
    sent.write_bytes(b"0123456789")
    reference = refer("prior", sent, exchange)
    fetch(reference, exchange, into, 10)
    assert into.read_bytes() == sent.read_bytes()
    with pytest.raises(InputError, match="at most 9 are taken"):
        fetch(reference, exchange, into, 9)
    with pytest.raises(InputError, match="name it by --exchange DIR"):
        fetch(reference, None, into, 10)
    for other in (b"0123456780", b"01234567890", b"012345678"):
        (exchange / reference.file).write_bytes(other)
        with pytest.raises(InputError, match="is not what was sent"):
            fetch(reference, exchange, tmp_path / "other", 10)
        assert not (tmp_path / "other").exists()
    with pytest.raises(InputError, match="refers to files wrongly"):
        references(json.dumps([{"name": "a", "file": "../a", "bytes": 1, "sha256": "0" * 64}]))


def test_a_device_has_keys_of_its_own_that_nobody_else_may_read(tmp_path: Path) -> None:
    card = new_device(tmp_path / "ann", "ann")
    assert new_device(tmp_path / "ann", "ann").read_bytes() == card.read_bytes()
    assert cards(tmp_path / "ann")["ann"].priors == public_key(tmp_path / "ann" / "priors.key.pub")
    for name in ("connection.key", "priors.key"):
        assert (tmp_path / "ann" / name).stat().st_mode & 0o077 == 0
    with pytest.raises(InputError, match="is the folder of the device of ann"):
        new_device(tmp_path / "ann", "bob")


def test_the_servers_certificate_is_its_authoritys(tmp_path: Path) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

    first, second = certificates(tmp_path, "example.org"), certificates(tmp_path, "127.0.0.1")
    ca, made = (x509.load_pem_x509_certificate(path.read_bytes()) for path in (second.ca, second.certificate))
    assert first.ca == second.ca
    assert first.key.stat().st_mode & 0o077 == 0
    made.verify_directly_issued_by(ca)
    assert isinstance(made.public_key(), ec.EllipticCurvePublicKey)
