"""A file of tensors and plain values that is read back exactly as it was written, or refused."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dua_lightning.errors import InputError
from dua_lightning.store.files import replacing

Tensors = dict[str, Tensor]
"""Tensors by name."""
Values = dict[str, Any]
"""Plain values that JSON can hold, by name."""


def fingerprint(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """Compute the digest of a text and of every tensor's name, type, shape and bytes, in the order of names.

    Args:
        tensors: Tensors by name, on any device.
        text: The text.

    Returns:
        The SHA-256 in hexadecimal.
    """
    found = hashlib.sha256(json.dumps(text).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu()
        found.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        found.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def save(path: Path, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Write tensors and plain values to a file, whole or not at all.

    Args:
        path: The file.
        tensors: Tensors by name; no two may share memory.
        values: Plain values that JSON can hold.

    Raises:
        InputError: The file cannot be written.
    """
    text = json.dumps(values, allow_nan=False)
    whole = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        try:
            save_file(whole, temporary, {"values": text, "sha256": fingerprint(whole, text)})
        except SafetensorError as error:
            # A full disk is such an error of safetensors.
            raise OSError(*error.args) from error


def load(path: Path) -> tuple[Tensors, Values]:
    """Read a file that `save` has written.

    Args:
        path: The file.

    Returns:
        The tensors, mapped into memory, and the plain values.

    Raises:
        InputError: The file is another one, or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise damaged(path, " ".join(str(error).split())) from error
    if about.get("sha256") != fingerprint(tensors, about.get("values", "")):
        raise damaged(path, "its content is not what was written")
    return tensors, _parsed(path, about)


def values(path: Path) -> Values:
    """Read the plain values of a file alone; the tensors stay unread, and nothing is compared with its digest.

    Args:
        path: The file.

    Returns:
        The plain values.

    Raises:
        InputError: The file cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return _parsed(path, file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise damaged(path, " ".join(str(error).split())) from error


def places(path: Path) -> dict[str, tuple[int, int]]:
    """Tell where a file has the bytes of each tensor, for programs that read them there.

    Args:
        path: The file.

    Returns:
        The first byte of each tensor and the one after its last, by the tensor's name.
    """
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    found = {name: about["data_offsets"] for name, about in header.items() if name != "__metadata__"}
    return {name: (8 + size + start, 8 + size + stop) for name, (start, stop) in found.items()}


def damaged(path: Path, reason: str) -> InputError:
    """Make the error for a file that is not what it should be.

    Args:
        path: The file.
        reason: The reason, as part of a sentence.

    Returns:
        The error, to be raised.
    """
    return InputError(f"{path} cannot be used: {reason}; delete it to make it again")


def _parsed(path: Path, about: Mapping[str, str]) -> Values:
    try:
        found = json.loads(about.get("values", ""))
    except (ValueError, RecursionError) as error:
        raise damaged(path, "it does not say what made it") from error
    if not isinstance(found, dict):
        raise damaged(path, "it does not say what made it")
    return found
