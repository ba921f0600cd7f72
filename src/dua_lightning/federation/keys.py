"""Keys of server and devices: the server's certificates, and the card by which a server knows a device."""

import ipaddress
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from dua_lightning.errors import InputError
from dua_lightning.privacy.keys import new_key, public_key
from dua_lightning.report.characters import filename
from dua_lightning.store.files import replacing, write_text

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.x509 import Certificate

DAYS, CA_DAYS = 397, 3650
"""The days for which a server's certificate is good, which is made anew at each start, and that of its authority."""
CONNECTION, PRIORS, CA = "connection.key", "priors.key", "ca.crt"
"""The files of a device: its private keys, and the certificate of the server's authority."""
MOST_CARD = 1 << 14
"""The largest size of a card in bytes."""


@dataclass(frozen=True)
class Card:
    """The card by which a server knows a device. Nothing on it is secret.

    Args:
        name: The user's name.
        connection: The public key of its connections, P-384, as OpenSSH writes it.
        priors: The public key of its priors, Ed25519, in hexadecimal.
    """

    name: str
    connection: str
    priors: str


@dataclass(frozen=True)
class Certificates:
    """The files of a server's certificate.

    Args:
        ca: The certificate of the authority, which devices need.
        certificate: The server's certificate.
        key: Its private key.
    """

    ca: Path
    certificate: Path
    key: Path


_CARD = TypeAdapter(Card)


def certificates(state: Path, host: str) -> Certificates:
    """Make the server's certificate, signed by an authority of its own, which is made at the first start.

    Args:
        state: The server's folder.
        host: The name or address by which devices reach the server.

    Returns:
        The files.

    Raises:
        InputError: A file cannot be read or written, or the package cryptography is missing.
    """
    _needed()
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID

    ca_file, ca_key_file = state / CA, state / "ca.key"
    if not ca_key_file.is_file():
        key = ec.generate_private_key(ec.SECP384R1())
        constraints = x509.BasicConstraints(ca=True, path_length=0)
        name = _named("dua_lightning server")
        made = _signed(name, name, key, key, CA_DAYS, constraints, [])
        # The key comes last: where it is, both are.
        _write(ca_file, _pem(made))
        _write(ca_key_file, _pem(key), secret=True)
    try:
        authority = x509.load_pem_x509_certificate(ca_file.read_bytes())
        ca_key = _private(ca_key_file)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{ca_file} or {ca_key_file} cannot be used ({error}); bring both back, or remove both and give devices "
            "the new one"
        ) from error
    hosts = {host, "localhost", "127.0.0.1", "::1"}
    names = x509.SubjectAlternativeName([_general(one) for one in sorted(hosts)])
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    key = ec.generate_private_key(ec.SECP384R1())
    constraints = x509.BasicConstraints(ca=False, path_length=None)
    made = _signed(_named(host[:64]), authority.subject, key, ca_key, DAYS, constraints, [names, usage])
    found = Certificates(ca_file, state / "server.crt", state / "server.key")
    _write(found.key, _pem(key), secret=True)
    _write(found.certificate, _pem(made))
    return found


def new_device(state: Path, name: str) -> Path:
    """Make the keys of a device, and the card that its server is given; keys that are there stay.

    Args:
        state: The device's folder.
        name: The user's name.

    Returns:
        The card's file.

    Raises:
        InputError: The folder is that of another user, a file cannot be read or written, or the package cryptography
            is missing.
    """
    _needed()
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    state.mkdir(parents=True, exist_ok=True)
    path = state / f"{filename(name)}.json"
    others = [other for other in state.glob("*.json") if other != path]
    if others:
        raise InputError(f"{state} is the folder of the device of {others[0].stem}; name another one by --state")
    if not (state / PRIORS).exists():
        new_key(state / PRIORS)
    if not (state / CONNECTION).exists():
        _write(state / CONNECTION, _pem(ec.generate_private_key(ec.SECP384R1())), secret=True)
    public = connection_key(state).public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    card = Card(name, public.decode(), public_key(state / f"{PRIORS}.pub"))
    write_text(path, json.dumps(asdict(card), indent=1) + "\n")
    return path


def connection_key(state: Path) -> "EllipticCurvePrivateKey":
    """Read the private key of a device's connections.

    Args:
        state: The device's folder.

    Returns:
        The key.

    Raises:
        InputError: It cannot be read.
    """
    path = state / CONNECTION
    try:
        found: EllipticCurvePrivateKey = _private(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be used ({error}); make keys by dua device --new-keys --state DIR") from error
    return found


def cards(folder: Path) -> Mapping[str, Card]:
    """Read the cards that a server's operator has put into a folder.

    Args:
        folder: The folder.

    Returns:
        The cards by the users' names.

    Raises:
        InputError: A file is no card, or two are of one user.
    """
    found: dict[str, Card] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            with path.open("rb") as file:
                card = _CARD.validate_json(file.read(MOST_CARD))
        except (OSError, ValidationError) as error:
            raise InputError(f"{path} is no card of a device; give NAME.json of dua device --new-keys") from error
        if card.name in found:
            raise InputError(f"{path} is a second card of {card.name}; remove one of them")
        found[card.name] = card
    return found


def _needed() -> None:
    if find_spec("cryptography") is None:
        raise InputError("keys need the package cryptography; pip install 'dua_lightning[federation]'")


def _signed(
    subject: Any, issuer: Any, key: Any, signer: Any, days: int, constraints: Any, more: list[Any]
) -> "Certificate":
    """A certificate of a key, from an hour ago for clocks that differ."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    now = datetime.now(UTC)
    authority = constraints.ca
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only"), False
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(constraints, critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=not authority,
                key_cert_sign=authority,
                crl_sign=authority,
                decipher_only=False,
                **usage,
            ),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    for extension in more:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(signer, hashes.SHA384())


def _named(text: str) -> Any:
    from cryptography import x509

    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def _general(host: str) -> Any:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(of: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    if hasattr(of, "private_bytes"):
        found: bytes = of.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return found
    return bytes(of.public_bytes(Encoding.PEM))


def _private(path: Path) -> Any:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    return load_pem_private_key(path.read_bytes(), None)


def _write(path: Path, content: bytes, secret: bool = False) -> None:
    with replacing(path, mode=0o600 if secret else 0o644) as temporary:
        temporary.write_bytes(content)
