"""Pairs of Ed25519 keys, by which a server knows whose a prior is."""

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from dua_lightning.errors import InputError
from dua_lightning.store.files import replacing

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

MOST = 1 << 14
"""The largest size of a file of a key in bytes; such a file has about a hundred."""
MAKE = "make one by dua privacy --new-key FILE"
"""The next step where a key cannot be used."""


def new_key(path: Path) -> tuple[Path, Path]:
    """Make a pair of keys: the private one that signs, and the public one that the server is given.

    Args:
        path: The file of the private key. Nobody but its owner may read it (mode 0600), and it has no password.

    Returns:
        The file of the private key, and that of the public one, which has `.pub` behind its name. Both are PEM.

    Raises:
        InputError: One of the files is there already or cannot be written, or the package cryptography is missing.
    """
    kind, _ = _kinds()
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    public = path.with_name(f"{path.name}.pub")
    for file in (path, public):
        if file.exists():
            raise InputError(f"{file} is there already, and no key is replaced; name another file")
    key = kind.generate()
    with replacing(path, mode=0o600) as temporary:
        temporary.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with replacing(public) as temporary:
        temporary.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return path, public


def public_key(path: Path) -> str:
    """Read a public key.

    Args:
        path: The file `NAME.pub` that `new_key` has made.

    Returns:
        The 32 bytes of the key in hexadecimal.

    Raises:
        InputError: The file cannot be read or is no such key, or the package cryptography is missing.
    """
    _, kind = _kinds()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    text = _bytes(path)
    try:
        found = load_pem_public_key(text)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InputError(
            f"{path} is no public key; name a file that dua privacy --new-key has made, NAME.pub"
        ) from error
    if not isinstance(found, kind):
        raise InputError(f"{path} is a key of another kind than Ed25519; {MAKE}")
    raw: bytes = found.public_bytes_raw()
    return raw.hex()


def private_key(path: Path) -> "Ed25519PrivateKey":
    """Read a private key.

    Args:
        path: The file that `new_key` has made.

    Returns:
        The key.

    Raises:
        InputError: The file is no such key, others may read it, or the package cryptography is missing.
    """
    kind, _ = _kinds()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    text = _bytes(path)
    if os.name != "nt" and stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise InputError(f"{path} can be read by others than its owner; chmod 600 {path}, or make another key")
    try:
        found = load_pem_private_key(text, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InputError(f"{path} is no private key; name a file that dua privacy --new-key has made") from error
    if not isinstance(found, kind):
        raise InputError(f"{path} is a key of another kind than Ed25519; {MAKE}")
    return found


def signed(content: bytes, signature: str, key: str) -> bool:
    """Tell whether some bytes were signed by a key.

    Args:
        content: The bytes.
        signature: The signature in hexadecimal.
        key: The public key in hexadecimal.

    Returns:
        Whether they were.

    Raises:
        InputError: The package cryptography is missing.
    """
    _, kind = _kinds()
    from cryptography.exceptions import InvalidSignature

    try:
        kind.from_public_bytes(bytes.fromhex(key)).verify(bytes.fromhex(signature), content)
    except (ValueError, InvalidSignature):
        return False
    return True


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MOST)
    except OSError as error:
        raise InputError(f"the key {path} cannot be read ({error.strerror or error}); {MAKE}") from error


def _kinds() -> tuple[type["Ed25519PrivateKey"], type["Ed25519PublicKey"]]:
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
    except ImportError as error:
        raise InputError("signatures need the package cryptography; pip install 'dua_lightning[privacy]'") from error
    return Ed25519PrivateKey, Ed25519PublicKey
