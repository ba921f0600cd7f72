"""The messages of one user: the priors of all experts, released one by one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dua_lightning.privacy.release.base import Release, size
from dua_lightning.streams import generator
from dua_lightning.tasks import Prior


@dataclass(frozen=True)
class Sent:
    """The facts about one prior that was sent.

    Args:
        images: The number of images that it was measured on.
        plain: The bytes of the prior as it was measured.
        sent: The bytes that crossed the wire for it.
        epsilon: The epsilon of differential privacy; NaN where there is no such guarantee.
        delta: The delta that goes with it.
    """

    images: int
    plain: int
    sent: int
    epsilon: float
    delta: float


def send(
    release: Release, priors: Sequence[Prior], images: Sequence[int], seed: int, *key: str | int
) -> tuple[list[Prior], list[Sent]]:
    """Release the priors of a user.

    Each has random numbers of its own stream `(seed, "release", *key, place)`. For a task without images there is
    nothing to send: its prior is 0 everywhere, as the server knows from the number of images, which is public.

    Args:
        release: The release.
        priors: The prior of each expert.
        images: The number of images that each of them was measured on.
        seed: The seed of the streams.
        *key: Their name: the user and the draw.

    Returns:
        The priors that the server gets, and the facts about each of them.

    Raises:
        InputError: A prior cannot be sent so.
    """
    got, facts = [], []
    for place, (prior, count) in enumerate(zip(priors, images, strict=True)):
        if not count:
            got.append(prior)
            facts.append(Sent(0, 0, 0, math.nan, math.nan))
            continue
        made = release(prior, count, generator(seed, "release", *key, place))
        got.append(made.prior)
        epsilon, delta = (math.nan if value is None else value for value in (made.epsilon, made.delta))
        facts.append(Sent(count, size(prior), made.sent, epsilon, delta))
    return got, facts
