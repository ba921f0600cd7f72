"""The gain of each mechanism of our own: a run's paths with one mechanism at a time switched off.

    python benchmarks/ablation.py [--pairs 9] [--only WORD ...]

Each path and the path without a mechanism run in turn in one process, several times after a warm-up; the table has the
median of the pairs' ratios and their quartiles, of elapsed time and of the processor's, which other programs on the
machine change less. What is switched off are the compiled loops of `kernels/gradients.py`: in their place comes the
library's gradient of each image.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

# Before torch is loaded, as the command line does.
os.environ.setdefault("GOMP_SPINCOUNT", "30000")

import torch
from paths import BACKBONES
from paths import PATHS as HOT_PATHS
from torch import nn

from dua_lightning import user
from dua_lightning.adapt import AdaBN, Adapt
from dua_lightning.data.benchmark import Benchmark
from dua_lightning.data.photos import photos
from dua_lightning.data.transprior import transprior
from dua_lightning.importance import MAS, Importance, rules
from dua_lightning.merge import Mode
from dua_lightning.nets import vgg11_bn
from dua_lightning.params import clone
from dua_lightning.tasks import Expert

Call = Callable[[], object]


def one_user(
    benchmark: Benchmark, make: Callable[[int], nn.Module], importance: Importance, adapt: Adapt, threads: int
) -> Call:
    """Everything a run does for one draw of one user: psi, the merge after each task, adaptation, evaluation."""
    net = make(0)
    experts = [Expert(task, clone(make(k).state_dict())) for k, task in enumerate(benchmark.tasks, start=1)]
    start = clone(net.state_dict())

    def path() -> None:
        torch.set_num_threads(threads)
        data = benchmark.users[0].draw(1)
        priors = user.measure(importance, net, experts, data)
        models = [(t, Mode()(experts[:t], priors[:t], start)) for t in range(1, len(experts) + 1)]
        user.evaluate(net, experts, models, adapt, data)

    return path


def psi(path_name: str, threads: int) -> Call:
    """The importance of `hot_paths.py` of that name."""
    call = HOT_PATHS[path_name].make().path

    def path() -> None:
        torch.set_num_threads(threads)
        call()

    return path


def on_photos(threads: int, extra: int | None) -> Call:
    benchmark = transprior(seed=1, images=photos(), extra_per_task=extra, input_size=32, user_batch_size=25)
    return one_user(
        benchmark,
        lambda seed: vgg11_bn(benchmark.shape, benchmark.classes, seed, width=0.125, pooled=1),
        MAS(),
        AdaBN(),
        threads,
    )


PATHS: dict[str, Callable[[], Call]] = {
    "one user, photographs, VGG11-BN narrow, 1 thread": lambda: on_photos(1, 0),
    "one user, photographs, VGG11-BN narrow, 2 threads": lambda: on_photos(2, 0),
    **{
        f"{name}, {threads} thread{'s' * (threads > 1)}": lambda name=name, threads=threads: psi(name, threads)
        for name in ("MAS, VGG11-BN, 64 images of 64", *(f"MAS, {backbone}, 64 images of 64" for backbone in BACKBONES))
        for threads in (1, 2)
    },
}


def with_the_library() -> Iterator[None]:
    with patch.object(rules, "_compiles", lambda *_: False):
        yield


CHANGES: dict[str, Callable[[], Iterator[None]]] = {
    "the library for the compiled loops": with_the_library,
}


def spent(call: Call) -> tuple[float, float]:
    """Seconds that passed, and seconds of the processor."""
    began, used = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - began, time.process_time() - used


def median_and_quartiles(ratios: list[float]) -> str:
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.2f} ({low:.2f} - {high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--only", nargs="+", default=[""], help="paths whose name has one of these words")
    given = parser.parse_args()
    print("| path | change | path (s) | elapsed, of the path's | processor, of the path's |\n|---|---|---|---|---|")
    for name in (name for name in PATHS if any(word in name for word in given.only)):
        path = PATHS[name]()
        for change, context in CHANGES.items():
            pairs = []
            for _ in range(given.pairs + 1):
                own = spent(path)
                with contextmanager(context)():
                    pairs.append((own, spent(path)))
            elapsed, processor = (
                median_and_quartiles([changed[kind] / own[kind] for own, changed in pairs[1:]]) for kind in (0, 1)
            )
            seconds = statistics.median(own for (own, _), _ in pairs[1:])
            print(f"| {name} | {change} | {seconds:.2f} | {elapsed} | {processor} |", flush=True)


if __name__ == "__main__":
    main()
