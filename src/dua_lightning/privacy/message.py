"""A prior as a file that a device sends: bound to its expert, within bounds, and signed.

The file is in the format safetensors. Whoever reads it runs nothing of what it holds. A copy of a message is as good as
the message: it is useless for another task or expert, and a transport that must refuse a second copy for the same one
has to number its rounds itself.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import AwareDatetime, Field, JsonValue, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dua_lightning.errors import InputError
from dua_lightning.importance.averaged import Level
from dua_lightning.params import Params, device_of, not_finite
from dua_lightning.privacy.keys import private_key, signed
from dua_lightning.store.files import replacing
from dua_lightning.store.tensorfile import fingerprint
from dua_lightning.tasks import Expert

VERSION = 1
"""The version of the format."""
TYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
"""The types of a prior's numbers."""
ONE = "expert"
"""The name of the one tensor of a prior that has one number for the whole expert."""
TIMES = 10.0
"""The factor by which a user's prior may be larger than the server's own, tensor by tensor; see `largest`."""
PURPOSE = b"dua_lightning prior 1\n"
"""Bytes before the digest that is signed, so that a signature is good for nothing else."""
TEXTS, TEXTS_OF_TENSOR = 1 << 16, 1 << 10
"""The bytes that a message may have beside its numbers, in all and for each tensor."""

_Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
_Name = Annotated[str, Field(max_length=200)]


@dataclass(frozen=True)
class About:
    """The words of a message about its prior.

    Args:
        version: The version of the format.
        importance: The name of psi, such as `mas`.
        settings: Its settings.
        level: The weights that share one number.
        images: The number of images that it was measured on.
        task: The name of the expert's task.
        expert: The digest of the expert; see `expert_digest`.
        network: The digest of the names and shapes of its tensors.
        release: The step between psi and the message, such as its name, bytes, epsilon and delta.
        time: The time of writing.
        sender: The name of whoever sends it.
        key: The public key of its signature in hexadecimal; `None` where it is not signed.
    """

    version: int
    importance: _Name
    settings: dict[str, JsonValue]
    level: Level
    images: Annotated[int, Field(ge=0)]
    task: str
    expert: _Digest
    network: _Digest
    release: dict[str, JsonValue]
    time: AwareDatetime
    sender: _Name
    key: _Digest | None = None


@dataclass(frozen=True)
class Message:
    """A prior that was read and found good.

    Args:
        prior: A number for each weight, on the expert's device. Entries that share a number share its memory.
        about: What the message says of it. The signature vouches that the sender says so, and nothing that it is true.
        bytes: The size of the file.
    """

    prior: Params
    about: About
    bytes: int


_ABOUT, _VALUES = TypeAdapter(About), TypeAdapter(dict[str, Any])


def expert_digest(expert: Expert) -> str:
    """Compute the digest of an expert: its task, its columns, and every tensor's name, type, shape and bytes.

    Args:
        expert: The expert.

    Returns:
        The SHA-256 in hexadecimal.
    """
    classes = expert.task.classes
    return fingerprint(expert.state, f"{classes.start}:{classes.stop} {expert.task.name}")


def largest(prior: Params, times: float = TIMES) -> dict[str, float]:
    """Give the largest norm of each tensor that a server takes of a user, as a multiple of its own prior's.

    Args:
        prior: The prior of the same expert that the server has measured on its own images, by the same importance.
        times: The factor. On the digits, tensors of honest users' MAS had up to 1.9 times the server's norm, of a
            single picture 6.2 times; of the FIM, which has squares, 38 and 62 times, so that it takes about 100.

    Returns:
        The largest Euclidean norm of each tensor by its name.
    """
    return {name: times * _norm(omega) for name, omega in prior.items()}


def save_prior(
    path: Path,
    prior: Params,
    expert: Expert,
    *,
    importance: str,
    images: int,
    level: Level = "weight",
    settings: Mapping[str, Any] | None = None,
    release: Mapping[str, Any] | None = None,
    sender: str = "",
    key: Path | None = None,
    time: datetime | None = None,
) -> Path:
    """Write the message with a prior, whole or not at all.

    Args:
        path: The file.
        prior: A number for each weight, in the type in which it is sent.
        expert: The expert that it was measured on.
        importance: The name of psi.
        images: The number of images that it was measured on.
        level: The weights that share one number, of which one is written: the prior is one that `averaged` has made.
        settings: The settings of psi: plain values.
        release: The step between psi and the message: plain values.
        sender: The name of whoever sends it.
        key: The file of the private key that signs it; see `keys.new_key`. Without one the message is not signed.
        time: The time that it has; by default now.

    Returns:
        The file.

    Raises:
        InputError: The prior is none of this expert, or has several numbers where the level has one; the settings are
            not plain; or the file cannot be written.
    """
    for name, omega in prior.items():
        if name not in expert.state or expert.state[name].shape != omega.shape or omega.dtype not in TYPES:
            raise InputError(
                f"{name} {tuple(omega.shape)} of {omega.dtype} is no number for each weight of the expert of task "
                f"{expert.task.name}; a message takes priors as MAS and the FIM give them"
            )
    if wrong := _wrong(prior):
        raise InputError(f"the prior of task {expert.task.name} is none: {wrong}")
    tensors = {name: tensor.detach().cpu().clone() for name, tensor in _packed(prior, level).items()}
    for name, omega in prior.items():
        if not torch.equal(_expanded(tensors, name, omega.shape, level), omega.cpu()):
            raise InputError(f'{name} has several numbers where one is sent; give averaged(prior, "{level}")')
    signer = None if key is None else private_key(key)
    about = About(
        version=VERSION,
        importance=importance,
        settings=dict(settings or {}),
        level=level,
        images=images,
        task=expert.task.name,
        expert=expert_digest(expert),
        network=_network(expert),
        release=dict(release or {}),
        time=time or datetime.now(UTC),
        sender=sender,
        key=signer.public_key().public_bytes_raw().hex() if signer else None,
    )
    try:
        text = json.dumps(_ABOUT.dump_python(about, mode="json"), allow_nan=False)
        _ABOUT.validate_json(text)
    except ValueError as error:
        raise InputError(f"a message cannot say this of a prior ({_first(error)}); give plain values") from error
    digest = fingerprint(tensors, text)
    signature = signer.sign(_signed(digest)).hex() if signer else ""
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, {"about": text, "sha256": digest, "signature": signature})
        except SafetensorError as error:
            # A full disk is such an error of safetensors.
            raise OSError(*error.args) from error
    return path


def load_prior(
    path: Path, expert: Expert, bounds: Mapping[str, float], *, trusted: Mapping[str, str] | None
) -> Message:
    """Read a message, and refuse whatever is no prior of this expert within the bounds.

    Args:
        path: The file.
        expert: The expert that the server has sent.
        bounds: The largest Euclidean norm of each tensor by its name, as `largest` gives it. A prior has these names.
            For one bound for all: `dict.fromkeys(body_names(net), bound)`.
        trusted: The public key of each sender by name; see `keys.public_key`. With `None` no signature is looked at.

    Returns:
        The prior and what is said of it.

    Raises:
        InputError: The file is larger than any prior of this expert, no message, of another version, of another expert,
            changed, unsigned, or signed by somebody else; or the prior has other tensors, or numbers that are not
            finite, negative or too large.
    """
    return _message(_read(path, _most(expert, bounds)), expert, bounds, trusted)


def load_priors(
    paths: Sequence[Path],
    experts: Sequence[Expert],
    bounds: Sequence[Mapping[str, float]],
    *,
    trusted: Mapping[str, str] | None,
) -> list[Message]:
    """Read the messages of one user, one for each expert, as a merge needs their priors.

    Args:
        paths: The files in any order.
        experts: The experts that the server has sent.
        bounds: For each expert the largest norms; see `load_prior`.
        trusted: The public key of each sender by name, or `None`.

    Returns:
        The messages in the order of the experts.

    Raises:
        InputError: As `load_prior`; or a message is of no task here or of several senders, or a task has no message or
            two.
    """
    of = {expert.task.name: (expert, bound) for expert, bound in zip(experts, bounds, strict=True)}
    most = max(_most(*pair) for pair in of.values())
    found: dict[str, Message] = {}
    for path in paths:
        file = _read(path, most)
        task, sender = file.about.task, file.about.sender
        if task not in of:
            raise file.refused(f"it is of task {task!r}, and the server has the tasks {', '.join(of)}")
        if task in found:
            raise file.refused(f"it is the second one of task {task}; give one for each task")
        found[task] = _message(file, *of[task], trusted)
        first = next(iter(found.values())).about.sender
        if sender != first:
            raise file.refused(f"it is from {sender!r}, and others are from {first!r}; give those of one user")
    if missing := [task for task in of if task not in found]:
        raise InputError(f"there is no message with a prior of task {missing[0]}; give one for each of {', '.join(of)}")
    return [found[task] for task in of]


@dataclass(frozen=True)
class _File:
    """The content of a file: nobody has compared it with an expert, or looked at its signature."""

    path: Path
    about: About
    tensors: dict[str, Tensor]
    digest: str
    signature: str

    def refused(self, reason: str) -> InputError:
        return _refused(self.path, reason)


def _read(path: Path, most: int) -> _File:
    try:
        if not path.is_file():
            raise _refused(path, "there is no such file")
        if (size := path.stat().st_size) > most:
            raise _refused(path, f"it has {size:,} bytes, and no prior of this expert has more than {most:,}")
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            # The copy stays the same when somebody writes to the file.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise _refused(path, f"it is no file of safetensors ({' '.join(str(error).split())})") from error
    text = metadata.get("about", "")
    try:
        version = _VALUES.validate_json(text).get("version")
        if version != VERSION:
            raise _refused(path, f"it has version {version!r} of the format, and this program reads version {VERSION}")
        about = _ABOUT.validate_json(text)
    except ValidationError as error:
        raise _refused(path, f"it is no message with a prior ({_first(error)})") from error
    digest = fingerprint(tensors, text)
    if metadata.get("sha256") != digest:
        raise _refused(path, "its content is not what was written; have it sent again")
    return _File(path, about, tensors, digest, metadata.get("signature", ""))


def _message(file: _File, expert: Expert, bounds: Mapping[str, float], trusted: Mapping[str, str] | None) -> Message:
    """The message in a file that is found good."""
    if trusted is not None:
        _check_signature(file, trusted)
    _check_expert(file, expert)
    level, tensors = file.about.level, file.tensors
    wanted = _packed({name: expert.state[name] for name in bounds}, level)
    if missing := sorted(wanted.keys() - tensors.keys()):
        raise file.refused(f"it lacks {missing[0]}, and a prior has a number for each weight of the body")
    if unknown := sorted(tensors.keys() - wanted.keys()):
        raise file.refused(f"it has {unknown[0]!r}, which is no part of a prior of this expert by {level}")
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape or tensor.dtype not in TYPES:
            raise file.refused(
                f"{name} is {tuple(tensor.shape)} of {tensor.dtype}, and a prior by {level} has "
                f"{tuple(wanted[name].shape)} of floating-point numbers"
            )
    if wrong := _wrong(tensors):
        raise file.refused(wrong)
    prior = {name: _expanded(tensors, name, expert.state[name].shape, level) for name in bounds}
    for name, omega in prior.items():
        if not (norm := _norm(omega)) <= bounds[name]:
            raise file.refused(f"{name} has the norm {norm:.3g}, and the server takes at most {bounds[name]:.3g}")
    device = device_of(expert.state)
    return Message({name: omega.to(device) for name, omega in prior.items()}, file.about, file.path.stat().st_size)


def _check_signature(file: _File, trusted: Mapping[str, str]) -> None:
    sender, key = file.about.sender, file.about.key
    if key is None:
        raise file.refused("it is not signed, and the server takes signed ones alone")
    if trusted.get(sender) != key:
        raise file.refused(f"it is signed by a key that the server does not know as that of {sender!r}")
    if not signed(_signed(file.digest), file.signature, key):
        raise file.refused(f"it is not what {sender!r} has signed; have it sent again")


def _check_expert(file: _File, expert: Expert) -> None:
    about, own, network = file.about, expert_digest(expert), _network(expert)
    if about.network != network:
        raise file.refused(
            f"it is a foreign prior, of the network {about.network[:8]}, and the server's is {network[:8]}"
        )
    if about.expert != own:
        raise file.refused(
            f"it is a stale prior, of the expert {about.expert[:8]} of task {about.task!r}, and the server's, of task "
            f"{expert.task.name}, is {own[:8]}; measure it anew on that one"
        )


def _packed(prior: Params, level: Level) -> dict[str, Tensor]:
    """The first number of all that share one."""
    if level == "channel":
        return {name: omega.flatten(1)[:, 0] if omega.dim() > 1 else omega for name, omega in prior.items()}
    if level == "layer":
        return {name: omega.flatten()[0] for name, omega in prior.items()}
    if level == "expert":
        return {ONE: next(iter(prior.values())).flatten()[0]}
    return prior


def _expanded(tensors: Mapping[str, Tensor], name: str, shape: torch.Size, level: Level) -> Tensor:
    """The number of each weight."""
    found = tensors[ONE if level == "expert" else name]
    return found.view(*found.shape, *[1] * (len(shape) - found.dim())).expand(shape)


def _wrong(prior: Mapping[str, Tensor]) -> str:
    """The reason why these numbers are no importances; empty where they may be."""
    if unfinite := not_finite(prior):
        return f"{unfinite[0]} is not finite everywhere"
    negative = [name for name, omega in prior.items() if (omega < 0).any()]
    return f"{negative[0]} has negative numbers, and an importance has none" if negative else ""


def _norm(omega: Tensor) -> float:
    return float(torch.linalg.vector_norm(omega.double()))


def _network(expert: Expert) -> str:
    """The digest of the names and shapes of an expert's tensors."""
    return fingerprint({}, repr([(name, list(expert.state[name].shape)) for name in sorted(expert.state)]))


def _most(expert: Expert, bounds: Mapping[str, float]) -> int:
    """The largest size of a message: a number of the widest type for each weight, and its texts."""
    return sum(8 * expert.state[name].numel() + TEXTS_OF_TENSOR for name in bounds) + TEXTS


def _signed(digest: str) -> bytes:
    return PURPOSE + digest.encode()


def _first(error: ValueError) -> str:
    """The reason of an error in one line."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}".lstrip(": ")
    return " ".join(str(error).split())


def _refused(path: Path, reason: str) -> InputError:
    return InputError(f"{path} is refused: {reason}")
