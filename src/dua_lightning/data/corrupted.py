"""Pictures as one user sees them, transformed when they are first read."""

from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha256

import torch
from torch import Tensor

from dua_lightning.data.corruptions import corrupt
from dua_lightning.data.images import Images
from dua_lightning.store.versions import version


def seen_through(name: str, plain: Images, severity: int, constants: str, seed: int, user: str) -> Images:
    """Show pictures behind a transform; its random numbers come from seed, user and picture.

    Args:
        name: The corruption, one of `corruptions.NAMES`.
        plain: The pictures without it.
        severity: 1 (mild) to 5 (strong).
        constants: The set of constants, a key of `corruptions.CONSTANTS`.
        seed: The run's seed.
        user: The user's name.

    Returns:
        The same pictures behind the transform. Reading them raises as `corruptions.corrupt` does.
    """
    store = Corrupted(name, plain, severity, constants, seed, user)
    return replace(plain, store=store, rows=torch.arange(len(plain)))


@dataclass(frozen=True, eq=False)
class Corrupted:
    """Pictures behind a transform, `(n, 3, height, width)` uint8 when indexed.

    They are transformed once, whole, and kept until another user's are read: ten users' copies of MIT Indoor Scenes
    would not fit in memory, and users are visited one after another.

    Args:
        name: The corruption, one of `corruptions.NAMES`.
        plain: The pictures without it.
        severity: 1 (mild) to 5 (strong).
        constants: The set of constants, a key of `corruptions.CONSTANTS`.
        seed: The run's seed.
        user: The user's name.
    """

    name: str
    plain: Images
    severity: int
    constants: str
    seed: int
    user: str

    def __getitem__(self, rows: Tensor) -> Tensor:
        return _transformed(self)[rows]

    def digest(self, rows: Tensor) -> str:
        """Compute the digest of what makes these rows; see `PixelStore`."""
        plain = self.plain.digest()
        made_of = (version(Corrupted), self.name, plain, self.severity, self.constants, self.seed, self.user)
        return sha256(repr((made_of, rows.tolist())).encode()).hexdigest()


@lru_cache(maxsize=1)
def _transformed(lazy: Corrupted) -> Tensor:
    plain = lazy.plain
    return corrupt(
        lazy.name, plain.pixels, lazy.severity, plain.sources, seed=lazy.seed, user=lazy.user, constants=lazy.constants
    )
