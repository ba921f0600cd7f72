"""Weights from files, from torchvision and from this package, for the body of a network."""

import re
from pathlib import Path
from pickle import UnpicklingError
from textwrap import shorten
from urllib.error import URLError

import torch
from safetensors.torch import load_file
from torch import nn

from dua_lightning.errors import InputError
from dua_lightning.params import State, lacks
from dua_lightning.store.files import file_sha256

PRETRAINED = Path(__file__).parent / "pretrained"
"""The folder of the weights that come with this package, of narrow networks by torchvision's name."""


def load_weights(body: nn.Module, name: str, weights: str, folder: str | Path | None = None) -> None:
    """Load weights into the body of a network, in place.

    A file is a state dictionary (`.safetensors`, or one that `torch.load` reads with `weights_only=True`), or a
    checkpoint that holds one. One prefix before all its names is taken off, as those of wrappers and of this package's
    own files. Further tensors, as those of a last layer, are passed over. A digest in a file's name, as in
    `resnet18-f37072fd.pth`, has to be that of its content.

    Args:
        body: The body.
        name: The network's name in torchvision.
        weights: `imagenet` for torchvision's first weights, `IMAGENET1K_V2` and the like for others by torchvision's
            name, `embedded` for those that come with this package, or the path of a file.
        folder: Where torchvision's file is looked for, itself and its folder `weights`, and where it is downloaded to;
            by default torch's own cache.

    Raises:
        InputError: The weights cannot be had or read, or do not fit.
    """
    published = weights == "imagenet" or weights.startswith("IMAGENET1K_")
    if published:
        path = _published(name, weights, folder)
    else:
        path = _embedded(name) if weights == "embedded" else Path(weights)
    load_tensors(body, name, weights, path)


def load_tensors(body: nn.Module, name: str, weights: str, path: Path) -> None:
    """Load the tensors of a file into the body of a network, in place, as `load_weights` does.

    Args:
        body: The body.
        name: The network's name, for messages.
        weights: The weights' name, for messages.
        path: The file.

    Raises:
        InputError: The file cannot be read, or its tensors do not fit.
    """
    wanted = body.state_dict()
    found = _without_prefix(_from_file(path), wanted, weights)
    for key, tensor in wanted.items():
        if key not in found:
            raise InputError(f"weights={weights} does not fit this {name}: it {lacks(found, key)}")
        if found[key].shape != tensor.shape:
            raise InputError(
                f"weights={weights} does not fit this {name}: {key} is {tuple(found[key].shape)}, and "
                f"{tuple(tensor.shape)} is needed; give width and pooled, or the size of images, of the file's "
                "network: published weights are of width 1 and the published sizes, "
                "embedded ones of width 0.125 and pooled 1"
            )
    body.load_state_dict({key: found[key] for key in wanted})


def _without_prefix(found: State, wanted: State, weights: str) -> State:
    """The tensors by the names that are wanted, where all of these stand behind one prefix.

    `DataParallel`, `torch.compile`, Lightning's modules and this package's own `Network` put one before all names.
    """
    first = next(iter(wanted))
    ends = [key.removesuffix(first) for key in found if f".{key}".endswith(f".{first}")]
    prefixes = [prefix for prefix in ends if all(f"{prefix}{key}" in found for key in wanted)]
    if "" in prefixes or not prefixes:
        return found
    if len(prefixes) > 1:
        raise InputError(
            f"weights={weights} has these weights more than once, under {', '.join(prefixes)}; save one network alone"
        )
    return {key: found[prefixes[0] + key] for key in wanted}


def _embedded(name: str) -> Path:
    """The file that comes with this package."""
    found = next(PRETRAINED.glob(f"{name}_w*.safetensors"), None)
    if found is None:
        known = ", ".join(sorted(path.name.rpartition("_w")[0] for path in PRETRAINED.glob("*.safetensors")))
        raise InputError(f"weights=embedded has none of {name}, but of {known}; take that network, or weights=none")
    return found


def _published(name: str, weights: str, folder: str | Path | None) -> Path:
    """The file of torchvision's weights, downloaded if it is nowhere."""
    from torchvision.models import get_model_weights

    known = get_model_weights(name).__members__
    wanted = "IMAGENET1K_V1" if weights == "imagenet" else weights
    if wanted not in known:
        raise InputError(f"torchvision has no weights {wanted} of {name}; it has {', '.join(known)}")
    url = known[wanted].url
    file, cache = Path(url).name, Path(torch.hub.get_dir()) / "checkpoints"
    places = [cache] if folder is None else [Path(folder), Path(folder) / "weights", cache]
    if found := next((place / file for place in places if (place / file).is_file()), None):
        return found
    try:
        places[0].mkdir(parents=True, exist_ok=True)
        # It keeps nothing whose digest does not begin as the name says.
        torch.hub.download_url_to_file(url, str(places[0] / file), _digest_in(file))
    except (URLError, OSError, RuntimeError) as error:
        raise InputError(
            f"the weights {wanted} of {name} could not be downloaded from {url} ({error}); put the file {file} "
            f"into {places[0].absolute()}, or use weights=PATH or weights=none"
        ) from error
    return places[0] / file


def _digest_in(name: str) -> str | None:
    """The beginning of the SHA-256 digest in a file's name, as torchvision writes it."""
    found = re.search(r"-([0-9a-f]{8,64})\.[a-z]+$", name)
    return found[1] if found else None


def _from_file(path: Path) -> State:
    try:
        _check_digest(path)
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded = torch.load(path, weights_only=True, map_location="cpu")
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"weights={path} is no file; give imagenet, embedded, none, or a file of tensors") from error
    except Exception as error:
        # torch.load raises half a dozen kinds for what is not a state dictionary.
        reason = shorten(f"{type(error).__name__}: {error}", 100, placeholder=" ..")
        if isinstance(error, UnpicklingError):
            # Torch's own text advises to load the file all the same.
            other = re.search(r"GLOBAL (\S+)", str(error))
            reason = f"it holds {other[1] if other else 'other things'}"
        raise InputError(
            f"weights={path} cannot be read as tensors alone ({reason}); give a file that torch.save has made of the "
            "network's state_dict()"
        ) from error
    # A checkpoint keeps the state beside counters and the like.
    entries = loaded if isinstance(loaded, dict) else {}
    nested = {key: _only_tensors(value) for key, value in entries.items() if _only_tensors(value)}
    if nested and "state_dict" not in nested and len(nested) > 1:
        raise InputError(f"weights={path} holds several states ({', '.join(map(str, nested))}); save one of them alone")
    state = nested.get("state_dict") or next(iter(nested.values()), None) or _only_tensors(entries)
    if not state:
        raise InputError(
            f"weights={path} is not a state dictionary; give imagenet, embedded, none, or a file of tensors"
        )
    return state


def _check_digest(path: Path) -> None:
    expected = _digest_in(path.name)
    if expected is None:
        return
    found = file_sha256(path)
    if not found.startswith(expected):
        raise InputError(
            f"{path} has a SHA-256 digest that begins with {found[: len(expected)]}, and by its name it begins with "
            f"{expected}; get it again, or rename it"
        )


def _only_tensors(value: object) -> State:
    """The tensors of a dictionary by their names; none of anything else."""
    entries = value.items() if isinstance(value, dict) else ()
    return {str(key): entry for key, entry in entries if isinstance(entry, torch.Tensor)}
