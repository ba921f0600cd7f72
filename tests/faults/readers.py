"""Every kind of file that the program reads, damaged at random or made to do harm."""

import gzip
import io
import pickle
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from dua_lightning.data.cache import cached
from dua_lightning.data.decode import decode
from dua_lightning.data.download import extract
from dua_lightning.data.mit_indoor import TEST, TRAIN, mit_indoor
from dua_lightning.data.numbers import load
from dua_lightning.errors import InputError
from dua_lightning.nets import vgg11
from dua_lightning.regularise import NoRegulariser
from dua_lightning.report import records, tables
from dua_lightning.report.records import CostRecord, Record
from dua_lightning.report.reduce import reduce
from dua_lightning.store.store import KINDS, Kind, Recipe, Store, read
from dua_lightning.training import fit
from tests.data.scenes import mit_members, mit_web, picture, tar
from tests.helpers import tiny
from tests.helpers.training import training

SHAPE = (6, 5, 4)
OWN = ("user", "last", "images")
CHECKPOINTS = (("last", 1), ("best", 2))


@dataclass(frozen=True)
class Reader:
    """`make` writes a good file into an empty folder and returns its path; `read` reads it as the program does.

    `sealed`: the file carries digests, so that whatever is accepted is what was written. Elsewhere a changed byte may
    be another picture or another number, which nobody can tell from a right one.
    """

    name: str
    make: Callable[[Path], Path]
    read: Callable[[Path], Any]
    sealed: bool = False


def state() -> dict[str, torch.Tensor]:
    return {"w": torch.arange(12.0).view(3, 4), "n": torch.tensor(7), "b": torch.tensor([True, False])}


def _entry(kind: Kind, folder: Path) -> Path:
    store, recipe = Store(folder), Recipe(kind, {"seed": 1})
    store.put(recipe, state())
    return store.path(recipe)


def _read_entry(path: Path) -> Any:
    tensors, values = read(path)
    return {name: (str(t.dtype), t.tolist()) for name, t in tensors.items()}, values


def _fitted(folder: Path, epochs: int) -> Any:
    net, server = tiny.network(), tiny.benchmark().server[0]
    expert = fit(net, server, NoRegulariser(), training(max_epochs=epochs), folder).expert
    return {name: t.tolist() for name, t in expert.state.items()}


def _checkpoint(name: str, epochs: int, folder: Path) -> Path:
    _fitted(folder, epochs)
    return folder / name


def _continued(path: Path) -> Any:
    return _fitted(path.parent, epochs=2)


def _arrays(folder: Path) -> Path:
    cached(folder, ["key"], SHAPE, lambda rows: rows.__setitem__(slice(None), 3))
    (path,) = folder.glob("*.npy")
    return path


def _read_arrays(path: Path) -> Any:
    def absent(rows: Any) -> None:
        raise AssertionError("the file is there")

    return cached(path.parent, ["key"], SHAPE, absent).tolist()


def _archive(mode: str, folder: Path) -> Path:
    path = folder / "a.tar"
    path.write_bytes(tar({"Images/a/1.jpg": bytes(range(256)) * 6, "Images/b/2.jpg": b"two"}, mode))
    return path


def _read_archive(path: Path) -> Any:
    extract(path, path.parent / "out")
    return {p.relative_to(path.parent).as_posix(): p.read_bytes() for p in path.parent.rglob("out/**/*") if p.is_file()}


def _picture(ending: str, folder: Path) -> Path:
    path = folder / f"a.{ending}"
    picture(1, 24, 16).save(path)
    return path


def _read_picture(path: Path) -> Any:
    return decode(path, 8, upright=True).tolist()


def _records(folder: Path) -> Path:
    path = folder / "records.csv"
    pairs = [(user, after, on) for user in ("ann", "bob") for after in (1, 2) for on in range(1, after + 1)]
    records.write(
        [
            Record("d", "m", "racl", "mas", "none", "MAS-RACL", "paper", *OWN, u, 1, 1, a, o, 50.5 + a)
            for u, a, o in pairs
        ],
        path,
    )
    return path


def _read_records(path: Path) -> Any:
    frame = records.read(path)
    reduced = reduce([frame])
    tables.table(reduced, "title")
    tables.write_summary(
        reduced, records.table(path.with_name("costs.csv"), CostRecord), None, path.with_name("summary.json")
    )
    return frame.to_csv()


def _weights(ending: str, folder: Path) -> Path:
    path = folder / f"w.{ending}"
    found = vgg11((3, 32, 32), 2, 0, width=0.01, pooled=1).body.state_dict()
    _ = save_file(found, path) if ending == "safetensors" else torch.save(found, path)
    return path


def _read_weights(path: Path) -> Any:
    net = vgg11((3, 32, 32), 2, 0, width=0.01, pooled=1, weights=str(path))
    return [(name, tuple(t.shape)) for name, t in net.state_dict().items()]


def _mnist(which: str, folder: Path) -> Path:
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        pixels, labels = (
            struct.pack(">HBB3I", 0, 8, 3, 4, 28, 28) + bytes(4 * 28 * 28),
            struct.pack(">HBBI", 0, 8, 1, 4),
        )
        (raw / f"{part}-images-idx3-ubyte").write_bytes(pixels)
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(labels + bytes([1, 2, 3, 4]))
    return raw / f"t10k-{which}-ubyte"


def _read_mnist(path: Path) -> Any:
    found = load("mnist", path.parents[2], train=False, download=False)
    return found.pixels.tolist(), found.labels.tolist()


def _list(folder: Path) -> Path:
    web = mit_web()
    for name in (TRAIN, TEST):
        (folder / name).write_bytes(web.files[name])
    for name, content in mit_members().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder / TRAIN


def _read_list(path: Path) -> Any:
    return mit_indoor(path.parent, 4, download=False, pictures=len(mit_members())).side.tolist()


READERS = (
    *(Reader(f"{kind} of the store", partial(_entry, kind), _read_entry, sealed=True) for kind in KINDS),
    # A training that has an epoch left, and one that has only its best model to give.
    *(Reader(f"{n}.ckpt", partial(_checkpoint, f"{n}.ckpt", epochs), _continued, True) for n, epochs in CHECKPOINTS),
    Reader("decoded pictures", _arrays, _read_arrays),
    Reader("archive", partial(_archive, "w"), _read_archive),
    Reader("gzip archive", partial(_archive, "w:gz"), _read_archive, sealed=True),
    *(Reader(f"{ending} picture", partial(_picture, ending), _read_picture) for ending in ("jpg", "png", "gif", "tif")),
    *(Reader(f"{ending} picture", partial(_picture, ending), _read_picture) for ending in ("webp", "bmp", "ppm")),
    *(Reader(f"MNIST {which}", partial(_mnist, which), _read_mnist) for which in ("images-idx3", "labels-idx1")),
    Reader("MIT list", _list, _read_list),
    Reader("records", _records, _read_records),
    Reader("safetensors weights", partial(_weights, "safetensors"), _read_weights),
    Reader("torch weights", partial(_weights, "pth"), _read_weights),
)


def mutated(good: bytes, random: Random) -> bytes:
    """`good` with one to three things wrong."""
    content = bytearray(good)
    for _ in range(random.randint(1, 3)):
        at = random.randrange(len(content) + 1)
        # The first bytes say how all others are to be read.
        at = random.randrange(min(64, len(content)) + 1) if random.random() < 0.5 else at
        length = random.choice((1, 2, 8, 100))
        kind = random.randrange(8)
        if kind <= 1 and at < len(content):
            content[at] ^= 1 << random.randrange(8)
        elif kind == 2:
            content[at : at + length] = random.choice((b"\0", b"\xff", b"\x7f")) * length
        elif kind == 3:
            del content[at:]
        elif kind == 4:
            content[at:at] = random.randbytes(length)
        elif kind == 5:
            del content[at : at + length]
        elif kind == 6:
            content[at:at] = content[at : at + length]
        else:
            content[at : at + length] = content[:length]
    return bytes(content)


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


def hostile(canary: Path) -> Iterator[tuple[str, bytes]]:
    """Whole files that are meant to do harm; `canary` is a path that some of them would write to."""
    payload = pickle.dumps(Payload(canary))
    yield "a pickle", payload
    yield "a torch pickle", _torch_pickle(canary)
    array = io.BytesIO()
    np.save(array, np.array([Payload(canary)], dtype=object), allow_pickle=True)
    yield "an array of objects", array.getvalue()
    for name in (str(canary), f"../{canary.name}", f"x/../../{canary.name}"):
        yield f"a zip file of {name}", _zip(name)
        yield f"an archive of {name}", tar({name: b"x"})
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE):
        yield f"an archive with a member of kind {kind!r}", _member(kind, canary)
    yield "a gzip bomb", _gzip_bomb()
    yield "a picture bomb", _png(30_000, 30_000)
    yield "a picture of absurd size", _png(2**31 - 1, 2**31 - 1)
    yield "a header that is longer than the file", struct.pack("<Q", 2**62) + b"{"
    yield "a header of a hundred megabytes", struct.pack("<Q", 99_000_000) + b"{" + b" " * 1000
    yield "a tensor of absurd size", _safetensors(b'{"w":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4]}}')
    yield "a nest of brackets", _safetensors(b"[" * 100_000)
    yield "an array of absurd size", _npy("{'descr': '|u1', 'fortran_order': False, 'shape': (1099511627776,), }")
    yield "an array with a call in its header", _npy(f"{{'descr': open({str(canary)!r}, 'w')}}")
    yield "a table of a task with a huge number", _huge_task()
    yield "a null file", bytes(1 << 20)


def fault(reader: Reader, path: Path, good: Any, content: bytes, canary: Path) -> str:
    """Say what is wrong with the way in which `content` is read in the place of a good file; empty where nothing is."""
    outside = _tree(canary.parent)
    path.write_bytes(content)
    wrong = ""
    try:
        found = reader.read(path)
        if reader.sealed and found != good:
            wrong = "accepted, with another value"
    except InputError as error:
        if "\n" in str(error) or str(canary.with_name("place")) not in str(error):
            wrong = f"not one line that names the file: {error!s:.500}"
        elif path.read_bytes() != content:
            wrong = "the file was changed"
    except Exception as error:
        wrong = f"{type(error).__name__}: {error!s:.300}"
    if canary.exists() or _tree(canary.parent) != outside:
        canary.unlink(missing_ok=True)
        wrong = "something was executed, or written outside the folder"
    return wrong


def verdicts(reader: Reader, count: int, folder: Path) -> Iterator[tuple[str, str]]:
    """`count` mutated files, by number, and the hostile ones, by what they are; and what is wrong with each."""
    (folder / "place").mkdir(parents=True)
    canary = folder / "canary"
    path = reader.make(folder / "place")
    good, value = path.read_bytes(), reader.read(path)
    random = Random(0)
    for name, content in chain(((str(i), mutated(good, random)) for i in range(count)), hostile(canary)):
        shutil.rmtree(folder / "place" / "out", ignore_errors=True)
        yield name, fault(reader, path, value, content, canary)


@cache
def _gzip_bomb() -> bytes:
    return gzip.compress(bytes(1 << 28))


def _tree(folder: Path) -> list[str]:
    """The files around the folder of a file; in it the reader may write."""
    return sorted(path.name for path in folder.iterdir())


def _torch_pickle(canary: Path) -> bytes:
    file = io.BytesIO()
    torch.save({"w": torch.zeros(1), "x": Payload(canary)}, file)
    return file.getvalue()


def _zip(name: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, b"x")
    return file.getvalue()


def _member(kind: bytes, canary: Path) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        info = tarfile.TarInfo("link")
        info.type, info.linkname = kind, str(canary.parent)
        archive.addfile(info)
        inside = tarfile.TarInfo(f"link/{canary.name}")
        inside.size = 1
        archive.addfile(inside, io.BytesIO(b"x"))
    return file.getvalue()


def _png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10**6)))
        + chunk(b"IEND", b"")
    )


def _safetensors(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + bytes(4)


def _npy(header: str) -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(4)


def _huge_task() -> bytes:
    values = ["d", "m", "racl", "mas", "none", "MAS-RACL", "paper", *OWN, "ann", 1, 1, 999_999, 999_999, 50.0]
    return f"{','.join(records.COLUMNS)}\n{','.join(map(str, values))}\n".encode()
