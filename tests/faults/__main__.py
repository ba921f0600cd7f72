"""`make faults`: everything of the fault suite, counted. `python -m tests.faults --quick` takes a minute."""

import argparse
import sys
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.progress import track

from tests.faults import (
    configs,
    driver,
    finite,
    pictures,
    readers,
    test_configs,
    test_driver,
    test_finite,
    test_pictures,
    test_readers,
)

Verdicts = Iterable[tuple[object, str]]
"""A trial, and what is wrong after it; empty where nothing is."""


def kills(count: int, folder: Path) -> Iterator[tuple[object, str]]:
    whole = driver.undisturbed(driver.RUN, folder / "whole")
    for i, point in enumerate(driver.points(whole, count)):
        yield point, driver.killed(point, whole, folder / str(i))


def failures(every: int, folder: Path) -> Iterator[tuple[object, str]]:
    one = driver.undisturbed(driver.ONE, folder / "whole")
    for kind in test_driver.KINDS:
        for place in range(1, one.boundaries + 1, every):
            yield (kind, place), driver.failed_at(kind, place, one, folder / f"{kind}{place}")


def folders(count: int, folder: Path) -> Iterator[tuple[object, str]]:
    yield from ((("one second", i), wrong) for i, wrong in enumerate(driver.same_second(count, folder / "second")))
    yield from ((("one folder", i), wrong) for i, wrong in enumerate(driver.same_folder(folder / "folder")))


def files(count: int, folder: Path) -> Iterator[tuple[object, str]]:
    # Damaged pictures make Pillow warn.
    warnings.simplefilter("ignore")
    for reader in readers.READERS:
        for name, wrong in readers.verdicts(reader, count, folder / reader.name):
            yield (reader.name, name), wrong


def main(quick: bool) -> int:
    """Print a line for each part, and whatever was lost; 1 if anything was."""
    console = Console(soft_wrap=True)
    lost: list[str] = []
    with TemporaryDirectory() as name:
        folder = Path(name)
        names = test_pictures.QUICK if quick else test_pictures.ALL
        parts: dict[str, Verdicts] = {
            "kills survived {} with identical results": kills(3 if quick else 50, folder / "kills"),
            "write faults {}": failures(20 if quick else 1, folder / "writes"),
            "folders of their own {}": folders(3 if quick else 20, folder / "folders"),
            "fuzzed configs {}": configs.verdicts(configs.drawn(test_configs.QUICK if quick else test_configs.ALL)),
            "fuzzed files {}": files(test_readers.QUICK if quick else test_readers.ALL, folder / "files"),
            "names of folders {}": pictures.named(names, folder / "names"),
            "pictures changed in place {}": pictures.changed(names, folder / "changed"),
            "dead links and empty folders {}": pictures.dead(folder / "dead"),
            "NaN anywhere {}": finite.verdicts(test_finite.QUICK if quick else test_finite.ALL, folder / "finite"),
        }
        for line, verdicts in parts.items():
            done = list(track(verdicts, line.format("...").removesuffix(" ..."), console=console, transient=True))
            wrong = [f"{what}: {text}" for what, text in done if text]
            console.print(line.format(f"{len(done) - len(wrong)}/{len(done)}"), highlight=False)
            lost += wrong
    for text in lost:
        console.print(text, highlight=False, markup=False)
    console.print(f"{len(lost)} of them ended badly" if lost else "nothing lost")
    return 1 if lost else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few of each kind")
    sys.exit(main(parser.parse_args().quick))
