"""Tiny synthetic benchmarks: a few 3x8x8 images, partly the picture of their class and partly noise."""

import torch

from dua_lightning.data.benchmark import Benchmark, assemble
from dua_lightning.data.images import Images, images
from dua_lightning.nets import Network, mlp
from dua_lightning.params import State
from dua_lightning.tasks import Task

SHAPE = (3, 8, 8)


def tasks(count: int = 3) -> tuple[Task, ...]:
    """Tasks a, b, c.. of two classes each."""
    return tuple(Task("abcdef"[i], slice(2 * i, 2 * i + 2)) for i in range(count))


def pictures(count: int = 3, per_class: int = 10, seed: int = 0, first_source: int = 0, noise: float = 0.5) -> Images:
    """`per_class` images of every class of `count` tasks, each its own source; half noise is easy, 0.9 is hard."""
    labels = torch.arange(2 * count).repeat_interleave(per_class)
    of_class = torch.randint(256, (12, *SHAPE), generator=torch.Generator().manual_seed(99))
    of_image = torch.randint(256, (len(labels), *SHAPE), generator=torch.Generator().manual_seed(seed))
    pixels = of_class[labels].float().lerp(of_image.float(), noise).byte()
    return images(pixels, labels, first_source + torch.arange(len(labels)), 0.5, 0.5)


def benchmark(
    count: int = 3, per_class: int = 10, seed: int = 0, labelled: bool = True, noise: float = 0.5
) -> Benchmark:
    """A server and two users, `far` and `near`."""
    users = {name: pictures(count, per_class, i, 1000 * i, noise) for i, name in ((1, "far"), (2, "near"))}
    return assemble(
        tasks(count),
        pictures(count, per_class, noise=noise),
        users,
        seed,
        batch_size=4,
        user_batch_size=3,
        users_labelled=labelled,
        iterations=2,
    )


def network(count: int = 3, seed: int = 0) -> Network:
    return mlp(SHAPE, 2 * count, seed, width=8)


def same(a: State, b: State) -> bool:
    """Bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def equal(a: Images, b: Images) -> bool:
    """The same images, bit for bit, wherever they are kept."""
    return all(
        torch.equal(getattr(a, name), getattr(b, name)) for name in ("pixels", "labels", "sources", "scale", "shift")
    ) and torch.equal(a.inputs(), b.inputs())
