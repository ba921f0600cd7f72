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
Values = dict[str, Any]
"""What JSON holds."""


def fingerprint(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """SHA-256, in hexadecimal, of `text` and of every tensor's name, type, shape and bytes, in the order of names."""
    found = hashlib.sha256(json.dumps(text).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu()
        found.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        found.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def save(path: Path, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Write both to `path`, whole or not at all. No two tensors may share memory. Raises `InputError` if it cannot."""
    text = json.dumps(values, allow_nan=False)
    whole = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        try:
            save_file(whole, temporary, {"values": text, "sha256": fingerprint(whole, text)})
        except SafetensorError as error:
            # What safetensors makes of a full disk.
            raise OSError(*error.args) from error


def load(path: Path) -> tuple[Tensors, Values]:
    """What `save` wrote to `path`, the tensors mapped into memory. Raises `InputError` for any other file."""
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
    """The plain values alone; the tensors stay unread, and nothing is compared with its digest. Raises as `load`."""
    try:
        with safe_open(path, framework="pt") as file:
            return _parsed(path, file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise damaged(path, " ".join(str(error).split())) from error


def damaged(path: Path, reason: str) -> InputError:
    """The refusal of a file that is not what it should be."""
    return InputError(f"{path} cannot be used: {reason}; delete it to make it again")


def _parsed(path: Path, about: Mapping[str, str]) -> Values:
    try:
        found = json.loads(about.get("values", ""))
    except (ValueError, RecursionError) as error:
        raise damaged(path, "it does not say what made it") from error
    if not isinstance(found, dict):
        raise damaged(path, "it does not say what made it")
    return found
