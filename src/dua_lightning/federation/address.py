"""Addresses that can be listened at, and those that somebody answers at."""

import socket

from dua_lightning.errors import InputError

ANSWERS = 5.0
"""Seconds that a server has to answer at the start."""


def free_port() -> int:
    """Find a port of the loopback address that nobody listens at.

    Returns:
        The port.
    """
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def refuse_taken(host: str, port: int) -> None:
    """Refuse an address that cannot be listened at.

    Args:
        host: The name or address.
        port: The port.

    Raises:
        InputError: Another program listens there, or the address is none of this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(address)
    except OSError as error:
        raise InputError(
            f"{host}:{port} cannot be listened at ({error.strerror or error}); end the program that does, or name "
            "another address by --host and --port"
        ) from error


def refuse_silent(server: str) -> None:
    """Refuse a server that nobody answers for.

    Args:
        server: `HOST:PORT`.

    Raises:
        InputError: The address cannot be used, or nobody answers.
    """
    host, _, port = server.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWERS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise InputError(
            f"no server answers at {server} ({getattr(error, 'strerror', None) or error}); give --server HOST:PORT of "
            "a running dua serve"
        ) from error
