"""The paper's Numbers benchmark: MNIST and SVHN, downloaded and read by torchvision.

[LeCun2010] Y. LeCun, C. Cortes. MNIST handwritten digit database. 2010.
[Netzer2011] Y. Netzer et al. Reading digits in natural images with unsupervised feature learning. 2011 (SVHN).
"""

from pathlib import Path

import torch

from dua_lightning.data.benchmark import Benchmark, assemble, digit_tasks
from dua_lightning.data.digits import COLOUR, GREY
from dua_lightning.data.images import Images, images
from dua_lightning.errors import InputError
from dua_lightning.streams import generator

SOURCES = {("mnist", True): 0, ("mnist", False): 100_000, ("svhn", True): 200_000, ("svhn", False): 300_000}
"""The number from which the sources of each data set's training and test images are counted."""


def numbers(
    seed: int,
    root: str | Path,
    tasks: int = 5,
    per_task_and_domain: int = 10_000,
    batch_size: int = 20,
    user_batch_size: int = 20,
    users_labelled: bool = True,
    iterations: int = 1,
    download: bool = True,
) -> Benchmark:
    """Make the Numbers benchmark: five tasks {0,1}..{8,9} over the two domains MNIST and SVHN.

    The server has training images of both domains, drawn from the stream `(seed, "numbers", domain, task)`. User `svhn`
    has the test images of SVHN, user `mnist` those of MNIST. SVHN is cut to its central 28x28 pixels.

    Files are looked for under `root`, as torchvision lays them out. MD5 digests are checked of every archive before it
    is extracted, and of SVHN's files whenever they are read.

    Args:
        seed: The run's seed.
        root: The folder of torchvision's data sets.
        tasks: The number of tasks, 1 to 5.
        per_task_and_domain: Training images of each task and domain; all of them where there are fewer, as in SVHN's
            {8,9} with 9,704.
        batch_size: Images of a training batch on the server.
        user_batch_size: Images of a batch in which phi takes a step.
        users_labelled: Whether the users' images have labels.
        iterations: The number of Monte-Carlo draws of each user's halves.
        download: Whether missing files are downloaded.

    Returns:
        The benchmark.

    Raises:
        InputError: A number cannot be met, or the files can be neither found nor downloaded.
    """
    if per_task_and_domain < 2:
        raise InputError(f"per_task_and_domain is at least 2, got {per_task_and_domain}")
    root = Path(root)
    wanted = digit_tasks(tasks)
    server = []
    for domain in ("mnist", "svhn"):
        train = load(domain, root, train=True, download=download)
        for task in wanted:
            index = ((train.labels >= task.classes.start) & (train.labels < task.classes.stop)).nonzero()[:, 0]
            order = torch.randperm(len(index), generator=generator(seed, "numbers", domain, task.name))
            server.append(train[index[order[:per_task_and_domain]]])
    users = {domain: load(domain, root, train=False, download=download) for domain in ("svhn", "mnist")}
    return assemble(wanted, Images.cat(server), users, seed, batch_size, user_batch_size, users_labelled, iterations)


def load(domain: str, root: Path, train: bool, download: bool) -> Images:
    """Load all training or test images of a domain, as 28x28 colour images with the domain's normalisation.

    Args:
        domain: `mnist` or `svhn`.
        root: The folder of torchvision's data sets.
        train: Whether the training images are loaded; otherwise the test images.
        download: Whether missing files are downloaded.

    Returns:
        The images.

    Raises:
        InputError: The files can be neither found nor downloaded, or are damaged.
    """
    from torchvision.datasets import MNIST, SVHN

    try:
        if domain == "mnist":
            mnist = MNIST(root, train=train, download=download)
            pixels, labels, norm = mnist.data, mnist.targets, GREY
        else:
            svhn = SVHN(str(root / "SVHN"), split="train" if train else "test", download=download)
            pixels, labels, norm = torch.from_numpy(svhn.data)[:, :, 2:30, 2:30], torch.from_numpy(svhn.labels), COLOUR
        if len(pixels) != len(labels) or not ((labels >= 0) & (labels <= 9)).all():
            raise ValueError(f"its {len(pixels)} pictures and {len(labels)} labels do not belong together")
    except (AssertionError, KeyError, OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{domain.upper()} could not be loaded from {root.absolute()} ({reason}); delete what is damaged there and "
            "run once with network access, put the original files there, choose another root, or use the benchmark "
            "digits, which needs no download"
        ) from error
    sources = SOURCES[domain, train] + torch.arange(len(labels))
    return images(pixels, labels, sources, *norm)
