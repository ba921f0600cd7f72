"""Parcels as Flower's messages."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr", reason="the extra federation is not installed")

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from dua_lightning.errors import InputError
from dua_lightning.federation.flower import ABOUT, BYTES, FILE, FILES, SMALL, pack, unpack
from dua_lightning.federation.parcel import Parcel

pytestmark = pytest.mark.devices


@pytest.fixture
def parcel(tmp_path: Path) -> Parcel:
    """An empty file, a small one and a large one."""
    files = {"empty": b"", "small.safetensors": bytes(SMALL), "large.safetensors": bytes(range(256)) * (SMALL // 255)}
    (tmp_path / "sent").mkdir()
    for name, content in files.items():
        (tmp_path / "sent" / name).write_bytes(content)
    return Parcel({"verb": "priors", "n": 1.5}, {name: tmp_path / "sent" / name for name in files})


@pytest.mark.parametrize("exchanged", [False, True])
def test_a_message_has_what_was_sent(exchanged: bool, parcel: Parcel, tmp_path: Path) -> None:
    exchange = tmp_path / "exchange" if exchanged else None
    got = tmp_path / "got"
    got.mkdir()
    records = pack(parcel, exchange, large=SMALL)
    # Each record is a request of its own.
    assert list(records) == ([ABOUT] if exchanged else [ABOUT, FILES])
    assert {key for key in records[ABOUT] if key.startswith(FILE)} == {FILE + "empty", FILE + "small.safetensors"}
    assert exchanged or list(records[FILES]) == ["large.safetensors"]
    found = unpack(records, got, exchange)
    assert found.about == parcel.about
    assert {name: path.read_bytes() for name, path in found.files.items()} == {
        name: path.read_bytes() for name, path in parcel.files.items()
    }
    assert all(path.parent == got for path in found.files.values())


def test_words_alone_are_one_record() -> None:
    assert list(pack(Parcel({"verb": "done"}, {}))) == [ABOUT]


WORDS = {"words": '{"verb": "priors"}', "references": "[]"}
WRONG: dict[str, dict[str, Any]] = {
    "no words": {},
    "words of another kind": {ABOUT: ArrayRecord()},
    "files of another kind": {ABOUT: ConfigRecord(WORDS), FILES: ConfigRecord({"a": b"1"})},
    "a small file elsewhere": {ABOUT: ConfigRecord({**WORDS, FILE + "../a": b"1"})},
    "a large file elsewhere": {
        ABOUT: ConfigRecord(WORDS),
        FILES: ArrayRecord({"/a": Array(dtype="uint8", shape=(1,), stype=BYTES, data=b"1")}),
    },
    "no name": {ABOUT: ConfigRecord({**WORDS, FILE: b"1"})},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_message_of_another_kind_is_refused(wrong: str, tmp_path: Path) -> None:
    (tmp_path / "got").mkdir()
    with pytest.raises(InputError, match=r"another program|of the name|cannot be read"):
        unpack(RecordDict(WRONG[wrong]), tmp_path / "got")
    assert not [*(tmp_path / "got").iterdir()]
    assert not (tmp_path / "a").exists()
