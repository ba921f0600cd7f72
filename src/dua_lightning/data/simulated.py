"""Users whom a server simulates of its own pictures, so that it chooses settings without the users who are scored.

[Hsu2019] T.-M. H. Hsu, H. Qi, M. Brown. Measuring the effects of non-identical data distribution for federated visual
classification. 2019 (preferences drawn from a Dirichlet distribution).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha256

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from dua_lightning.data.benchmark import Benchmark
from dua_lightning.data.images import Images
from dua_lightning.data.population import LEAST_CONCENTRATION, MOST_CONCENTRATION
from dua_lightning.data.server import ServerTask
from dua_lightning.data.splits import by_task, divisible
from dua_lightning.data.user import UserData
from dua_lightning.errors import InputError
from dua_lightning.store.versions import version
from dua_lightning.streams import derive, generator


@dataclass(frozen=True)
class Simulated:
    """Keep a benchmark's tasks and server, and put simulated users in the place of its own.

    Each user sees the server's validation pictures of every task, on which no training takes a step. The server's
    own priors and statistics are measured on these pictures as well, which favours rows of the server's a little. User
    k draws from the streams `(seed, "simulated", ...)`. The benchmark's users are not read: they lend batch size, and
    whether labels may be seen.

    Args:
        count: The number of users.
        transforms: Whether each user sees the pictures through one of `TRANSFORMS`, of a strength of the user's own.
        concentration: The parameter of the Dirichlet distribution [Hsu2019] of a user's preferences among the
            categories of a task; with `None` users have all pictures. The category that is preferred most keeps all its
            pictures, and others in proportion.

    Raises:
        InputError: A number cannot be used, or users would not differ.
    """

    count: int = 10
    transforms: bool = True
    concentration: float | None = None

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InputError(f"the server simulates at least 1 user, got count={self.count}")
        if not self.transforms and self.concentration is None:
            raise InputError(
                "simulated users without transforms and preferences are all alike; give them one of the two"
            )
        if self.concentration is not None and not LEAST_CONCENTRATION <= self.concentration <= MOST_CONCENTRATION:
            raise InputError(
                f"concentration={self.concentration} cannot be used: it is between {LEAST_CONCENTRATION:g} and "
                f"{MOST_CONCENTRATION:g}, or None"
            )

    def __call__(self, benchmark: Benchmark) -> Benchmark:
        """Simulate the users of a benchmark.

        Args:
            benchmark: The benchmark.

        Returns:
            The same server, with the simulated users.

        Raises:
            InputError: The server has fewer than two validation pictures of every category of a task.
        """
        for data in benchmark.server:
            if not divisible(data.validation):
                raise InputError(
                    f"the server's {len(data.validation)} validation pictures of task {data.task.name} make no two "
                    "halves of a simulated user; give it more pictures"
                )
        seed = benchmark.server[0].seed
        order = torch.randperm(len(TRANSFORMS), generator=generator(seed, "simulated", "transforms")).tolist()
        names = [list(TRANSFORMS)[order[k % len(order)]] for k in range(self.count)]
        users = tuple(self._user(benchmark, f"simulated_{k + 1}", name) for k, name in enumerate(names))
        return replace(benchmark, users=users)

    def _user(self, benchmark: Benchmark, user: str, transform: str) -> UserData:
        (like,) = benchmark.users[:1]
        seed = benchmark.server[0].seed
        random = np.random.default_rng(derive(seed, "simulated", user))
        strength = random.uniform()
        plain = Images.cat([self._preferred(data, random) for data in benchmark.server])
        if self.transforms:
            store = Transformed(transform, plain, strength, seed, user)
            plain = replace(plain, store=store, rows=torch.arange(len(plain)))
        images = by_task(plain, [task.classes for task in benchmark.tasks])
        return UserData(user, images, benchmark.tasks, seed, batch_size=like.batch_size, labelled=like.labelled)

    def _preferred(self, data: ServerTask, random: np.random.Generator) -> Images:
        """The server's validation pictures of a task that the user has."""
        images = data.validation
        if self.concentration is None:
            return images
        labels = [label for label in images.labels.unique().tolist() if divisible(images[images.labels == label])]
        shares = random.dirichlet([self.concentration] * len(labels))
        kept = []
        for label, share in zip(labels, shares / shares.max(), strict=True):
            places = (images.labels == label).nonzero()[:, 0]
            kept.append(places[random.permutation(len(places))[: round(share * len(places))]])
        return images[torch.cat(kept).sort().values]


@dataclass(frozen=True, eq=False)
class Transformed:
    """Pictures behind one of `TRANSFORMS`, `(n, 3, height, width)` uint8 when indexed.

    They are transformed when they are first read, whole, and kept until another user's are read.

    Args:
        name: The transform.
        plain: The pictures without it.
        strength: 0 to 1.
        seed: The run's seed.
        user: The user's name.
    """

    name: str
    plain: Images
    strength: float
    seed: int
    user: str

    def __getitem__(self, rows: Tensor) -> Tensor:
        return _transformed(self)[rows]

    def digest(self, rows: Tensor) -> str:
        """Compute the digest of what makes these rows; see `PixelStore`."""
        made_of = (version(Transformed), self.name, self.plain.digest(), self.strength, self.seed, self.user)
        return sha256(repr((made_of, rows.tolist())).encode()).hexdigest()


@lru_cache(maxsize=1)
def _transformed(lazy: Transformed) -> Tensor:
    noise = generator(lazy.seed, "simulated", lazy.user, "noise")
    return TRANSFORMS[lazy.name](lazy.plain.pixels, lazy.strength, noise)


def _pixelated(x: Tensor, strength: float, _: torch.Generator) -> Tensor:
    """Fewer pixels, a half to a fifth of them along each side."""
    small = [max(1, round(side * (0.5 - 0.3 * strength))) for side in x.shape[2:]]
    shrunk = functional.resize(x, small, InterpolationMode.BILINEAR)
    large: Tensor = functional.resize(shrunk, list(x.shape[2:]), InterpolationMode.NEAREST)
    return large


def _speckled(x: Tensor, strength: float, noise: torch.Generator) -> Tensor:
    """Noise in proportion to the brightness."""
    pixels = x.float()
    return (pixels + pixels * torch.randn(x.shape, generator=noise) * (0.15 + 0.3 * strength)).clamp(0, 255).byte()


TRANSFORMS: dict[str, Callable[[Tensor, float, torch.Generator], Tensor]] = {
    "hue": lambda x, s, _: functional.adjust_hue(x, 0.1 + 0.4 * s),
    "channels": lambda x, s, _: functional.permute_channels(x, [1, 2, 0] if s < 0.5 else [2, 0, 1]),
    "grayscale": lambda x, s, _: functional.rgb_to_grayscale(x, 3),
    "invert": lambda x, s, _: functional.invert(x),
    "solarize": lambda x, s, _: functional.solarize(x, 200 - 150 * s),
    "posterize": lambda x, s, _: functional.posterize(x, 4 - int(3 * s)),
    "equalize": lambda x, s, _: functional.equalize(x),
    "sharpness": lambda x, s, _: functional.adjust_sharpness(x, 3 + 7 * s),
    "shake": lambda x, s, _: functional.gaussian_blur(x, [9, 1], [1 + 2 * s, 1]),
    "pixelate": _pixelated,
    "speckle": _speckled,
}
"""Transforms of torchvision by name, and two more; each takes pictures, a strength from 0 to 1, and random numbers.

None is one of `corruptions.NAMES`, so that a choice made on simulated users does not know how those of TransPrior and
of the population see.
"""
