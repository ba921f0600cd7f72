"""The version of the code behind what a run keeps: a digest of the source of the modules that make it."""

from functools import cache
from hashlib import sha256
from importlib.resources import files
from importlib.resources.abc import Traversable

import torch

EXPERTS = (
    *("training", "server.py", "params.py", "kernels", "streams.py", "tasks.py"),
    *("nets", "regularise", "importance", "data/server.py", "data/images.py"),
)
"""What trains an expert. How images are made is not in it: an expert stands under the digest of the images."""

PRIORS = (*EXPERTS, "user.py", "data/user.py", "data/splits.py")
"""What measures a prior of the server or of a user."""

RESULTS = (*PRIORS, "evaluation.py", "merge", "adapt")
"""What merges, adapts and evaluates."""

CORRUPTIONS = ("data/corruptions.py", "data/corrupted.py", "streams.py")
"""What transforms users' pictures."""

EVERYTHING = (".",)
"""The package."""


@cache
def version(parts: tuple[str, ...]) -> str:
    """SHA-256, in hexadecimal, of the source of modules and of all modules in packages, and of torch's version."""
    found = sha256(torch.__version__.encode())
    for part in parts:
        for name, text in _sources(files("dua_lightning").joinpath(part), part):
            found.update(f"\0{name}\0{len(text)}\0".encode() + text)
    return found.hexdigest()


def _sources(path: Traversable, name: str) -> list[tuple[str, bytes]]:
    if path.is_file():
        return [(name, path.read_bytes())] if name.endswith(".py") else []
    inner = sorted(path.iterdir(), key=lambda child: child.name)
    return [source for child in inner for source in _sources(child, f"{name}/{child.name}")]
