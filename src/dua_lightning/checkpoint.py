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
from dua_lightning.files import replacing


def fingerprint(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """SHA-256, in hexadecimal, of `text` and of every tensor's name, type, shape and bytes."""
    found = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        found.update(repr((name, tensor.dtype, tuple(tensor.shape))).encode())
        found.update(tensor.flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def save(path: Path, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Write both to `path`, whole or not at all; `values` are what JSON holds. No two tensors may share memory."""
    text = json.dumps(values, allow_nan=False)
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        try:
            save_file(whole, temporary, metadata={"values": text, "sha256": fingerprint(whole, text)})
        except SafetensorError as error:
            # What safetensors makes of a full disk.
            raise OSError(*error.args) from error


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `save` wrote to `path`. Raises `InputError` for any other file; nothing is unpickled."""
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if fingerprint(tensors, about["values"]) != about["sha256"]:
            raise ValueError("its content is not what was written")
        values: dict[str, Any] = json.loads(about["values"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        reason = "it was not written by this program" if isinstance(error, KeyError) else error
        raise InputError(
            f"the checkpoint {path} cannot be read ({reason}); delete it to train from the start"
        ) from error
    return tensors, values
