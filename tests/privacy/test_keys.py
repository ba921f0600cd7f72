"""Signed messages: the server knows whose a prior is, or refuses it in one line."""

import os
import stat
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from dua_lightning.errors import InputError
from dua_lightning.privacy.keys import new_key, private_key, public_key, signed
from dua_lightning.privacy.message import load_prior, save_prior
from dua_lightning.store.tensorfile import fingerprint
from tests.privacy.test_message import ABOUT, BOUNDS, expert, measured

pytest.importorskip("cryptography", reason="signatures are an extra")


@pytest.fixture
def ann(tmp_path: Path) -> Path:
    return new_key(tmp_path / "ann")[0]


def test_a_private_key_is_its_owners_alone_and_never_replaced(ann: Path) -> None:
    assert stat.S_IMODE(ann.stat().st_mode) == 0o600
    assert sorted(file.name for file in ann.parent.iterdir()) == ["ann", "ann.pub"]
    before = ann.read_bytes()
    with pytest.raises(InputError, match="is there already, and no key is replaced"):
        new_key(ann)
    assert ann.read_bytes() == before
    if os.name != "nt":
        ann.chmod(0o640)
        with pytest.raises(InputError, match="can be read by others than its owner; chmod 600"):
            private_key(ann)


def test_the_two_keys_belong_together(ann: Path) -> None:
    signature = private_key(ann).sign(b"a").hex()
    key = public_key(ann.with_name("ann.pub"))
    assert signed(b"a", signature, key)
    assert not signed(b"b", signature, key)
    assert not signed(b"a", "", key)
    assert not signed(b"a", "no number", key)


def test_other_files_are_no_keys(ann: Path) -> None:
    public = ann.with_name("ann.pub")
    public.chmod(0o600)
    with pytest.raises(InputError, match="is no private key"):
        private_key(public)
    with pytest.raises(InputError, match="is no public key"):
        public_key(new_key(ann.with_name("bob"))[0])
    with pytest.raises(InputError, match=r"cannot be read .*; make one by dua privacy --new-key"):
        public_key(ann.with_name("carol.pub"))


def test_a_signed_message_is_taken_from_whom_the_server_knows(ann: Path, tmp_path: Path) -> None:
    path = save_prior(tmp_path / "prior", measured(), expert(), key=ann, **ABOUT)
    known, other = public_key(tmp_path / "ann.pub"), public_key(new_key(tmp_path / "bob")[1])
    assert load_prior(path, expert(), BOUNDS, trusted={"bob": other, "ann": known}).about.key == known
    for trusted in ({}, {"bob": known}, {"ann": other}):
        with pytest.raises(InputError, match="a key that the server does not know as that of 'ann'"):
            load_prior(path, expert(), BOUNDS, trusted=trusted)


def test_an_unsigned_message_is_refused_where_signatures_are_asked_for(tmp_path: Path) -> None:
    path = save_prior(tmp_path / "prior", measured(), expert(), **ABOUT)
    with pytest.raises(InputError, match="it is not signed"):
        load_prior(path, expert(), BOUNDS, trusted={})


@pytest.mark.parametrize("what", ["tensors", "about", "signature"])
def test_what_was_changed_after_signing_is_refused(what: str, ann: Path, tmp_path: Path) -> None:
    path = save_prior(tmp_path / "prior", measured(), expert(), key=ann, **ABOUT)
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    if what == "tensors":
        next(iter(tensors.values())).mul_(0.5)
    if what == "about":
        metadata["about"] = metadata["about"].replace('"images": 5', '"images": 500')
    if what == "signature":
        metadata["signature"] = private_key(new_key(tmp_path / "bob")[0]).sign(b"another").hex()
    save_file(tensors, path, metadata | {"sha256": fingerprint(tensors, metadata["about"])})
    with pytest.raises(InputError, match="it is not what 'ann' has signed"):
        load_prior(path, expert(), BOUNDS, trusted={"ann": public_key(tmp_path / "ann.pub")})
