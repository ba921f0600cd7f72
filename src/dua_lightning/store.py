"""Experts on disk, each under the digest of what made it."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from dua_lightning.errors import InputError
from dua_lightning.files import replacing
from dua_lightning.tasks import Expert, Task


def digest(*parts: Mapping[str, Any] | str) -> str:
    """SHA-256, in hexadecimal, of plain values in canonical JSON; the same whatever the order of keys."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, allow_nan=False).encode()).hexdigest()


class ExpertStore:
    """A folder of `DIGEST.safetensors`, one for each expert; runs with the same digest share it.

    A file appears whole or not at all. Nothing is unpickled.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def get(self, key: str, task: Task) -> Expert | None:
        """The expert stored under `key`, or nothing. Raises `InputError` for a damaged file."""
        path = self._path(key)
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                return Expert(task, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"the stored expert {path} cannot be read ({error}); delete it to train it again"
            ) from error

    def put(self, key: str, expert: Expert) -> None:
        with replacing(self._path(key)) as temporary:
            save_file(
                {name: t.contiguous() for name, t in expert.state.items()},
                temporary,
                metadata={"task": expert.task.name},
            )

    def _path(self, key: str) -> Path:
        return self.root / f"{key}.safetensors"
