"""The messages between server and device, without any transport: words and files."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from dua_lightning.errors import InputError
from dua_lightning.store.files import file_sha256, replacing

CHUNK = 1 << 20
"""The bytes that are copied at once."""


@dataclass(frozen=True)
class Parcel:
    """A message from one side to the other.

    Args:
        about: Plain values by name; `verb` says what is wanted, or what was done.
        files: The files by the names that the other side gives them.
    """

    about: Mapping[str, Any]
    files: Mapping[str, Path]

    @property
    def verb(self) -> str:
        """The word that says what is wanted, or what was done."""
        return str(self.about.get("verb", ""))

    @property
    def size(self) -> int:
        """The bytes of its files."""
        return sum(path.stat().st_size for path in self.files.values())


class Reference(BaseModel, extra="forbid"):
    """A file that lies in the exchange folder instead of the message.

    Args:
        name: Its name in the message.
        file: Its name in the exchange folder.
        bytes: Its size.
        sha256: Its digest.
    """

    name: str
    file: str = Field(pattern="^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


_REFERENCES = TypeAdapter(list[Reference])


def refer(name: str, path: Path, exchange: Path) -> Reference:
    """Put a file into the exchange folder, whole or not at all, under the name of its digest.

    Args:
        name: Its name in the message.
        path: The file.
        exchange: The folder that both sides reach.

    Returns:
        The reference for the message.

    Raises:
        InputError: The folder cannot be written to.
    """
    found = file_sha256(path)
    place = exchange / found
    if not place.is_file():
        with replacing(place) as temporary:
            shutil.copyfile(path, temporary)
    return Reference(name=name, file=found, bytes=path.stat().st_size, sha256=found)


def references(text: str) -> list[Reference]:
    """Read the references of a message.

    Args:
        text: Their JSON.

    Returns:
        The references.

    Raises:
        InputError: They are none.
    """
    try:
        return _REFERENCES.validate_json(text)
    except ValidationError as error:
        raise InputError(f"a message refers to files wrongly ({error.errors()[0]['msg']})") from error


def fetch(reference: Reference, exchange: Path | None, into: Path, most: int) -> None:
    """Copy a file from the exchange folder, and refuse it if it is another one.

    Args:
        reference: What the message says of it.
        exchange: The folder that both sides reach; `None` where this side has none.
        into: The file to write.
        most: The most bytes that are taken.

    Raises:
        InputError: There is no such file, it is too large, or it is not what the message says.
    """
    if exchange is None:
        raise InputError(f"{reference.name} was sent through an exchange folder; name it by --exchange DIR")
    path = exchange / reference.file
    if reference.bytes > most:
        raise InputError(f"{reference.name} has {reference.bytes:,} bytes, and at most {most:,} are taken")
    found, left = sha256(), reference.bytes
    try:
        with path.open("rb") as source, replacing(into) as temporary:
            with temporary.open("wb") as target:
                # One byte more than was said tells a longer file from the right one.
                while piece := source.read(min(CHUNK, left + 1)):
                    left -= len(piece)
                    if left < 0:
                        break
                    found.update(piece)
                    target.write(piece)
            if left or found.hexdigest() != reference.sha256:
                raise InputError(f"{reference.name} in the exchange folder is not what was sent; send it again")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); see that both sides reach it") from error


def text(values: Any) -> str:
    """Write plain values as they are sent.

    Args:
        values: The values.

    Returns:
        Their JSON.
    """
    return json.dumps(values, allow_nan=False)


def parsed(written: str) -> dict[str, Any]:
    """Read the words of a message.

    Args:
        written: Their JSON.

    Returns:
        Plain values by name.

    Raises:
        InputError: They are none.
    """
    try:
        found = json.loads(written)
    except (ValueError, RecursionError) as error:
        raise InputError(f"a message cannot be read ({error})") from error
    if not isinstance(found, dict):
        raise InputError("a message cannot be read (it is no object of JSON)")
    return found
