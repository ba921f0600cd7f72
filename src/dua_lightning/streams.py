"""One seed, many independent streams of random numbers.

Every random choice of a run (initial weights, order of a task's images, a user's split) draws from a stream of its own,
named by a key. A choice added or left out elsewhere therefore never shifts another one, and a stream is the same in
every process.
"""

import hashlib
from unicodedata import normalize

import torch


def derive(seed: int, *key: str | int) -> int:
    """Derive the seed of the stream that is named by a key.

    Args:
        seed: The run's seed.
        *key: The name of the stream: texts and whole numbers in a fixed order. Texts that differ only in their Unicode
            form are the same: one system composes accents, another does not.

    Returns:
        A seed in `[0, 2**63)`, the same on every machine.

    Examples:
        >>> derive(1, "user", "mnist") == derive(1, "user", "mnist")
        True
        >>> derive(1, "user", "mnist") == derive(1, "usermnist")
        False
    """
    # The bytes of a file's name that are no text are lone surrogates in Python.
    encoded = "\x1f".join(map(_part, (seed, *key))).encode(errors="surrogatepass")
    return int.from_bytes(hashlib.sha256(encoded).digest()[:8], "big") >> 1


def generator(seed: int, *key: str | int) -> torch.Generator:
    """Make a random number generator at the start of the stream that is named by a key.

    Args:
        seed: The run's seed.
        *key: The name of the stream, as in `derive`.

    Returns:
        A generator on the processor.
    """
    return torch.Generator().manual_seed(derive(seed, *key))


def _part(part: str | int) -> str:
    # The separator stands alone, so that no text can hold it.
    return f"s:{normalize('NFC', part)}".replace("\x1f", "\x1f\x1f") if isinstance(part, str) else f"i:{int(part)}"
