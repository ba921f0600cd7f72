"""MNIST and SVHN through torchvision itself, on small files in the official formats, served from this machine."""

import functools
import gc
import gzip
import hashlib
import http.server
import itertools
import shutil
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from torchvision.datasets import MNIST, SVHN

from dua_lightning.data.benchmark import Benchmark
from dua_lightning.data.images import Images
from dua_lightning.data.numbers import numbers
from dua_lightning.errors import InputError

FILES = {("mnist", True): 12, ("mnist", False): 4, ("svhn", True): 9, ("svhn", False): 6}
"""Images of each class in each data set's training and test files; SVHN's classes 8 and 9 have one less."""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


class Official:
    """The files, what is in them, and a server for them; torchvision is told to look here."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.content = {key: self._draw(i, *key, n) for i, (key, n) in enumerate(FILES.items())}
        self.mnist_files: list[str] = []
        for part, train in (("train", True), ("t10k", False)):
            pixels, labels = self.content["mnist", train]
            self._write_idx(f"{part}-images-idx3-ubyte.gz", pixels)
            self._write_idx(f"{part}-labels-idx1-ubyte.gz", labels)
        for part, train in (("train", True), ("test", False)):
            pixels, labels = self.content["svhn", train]
            as_written = {"X": pixels.transpose(1, 2, 3, 0), "y": np.where(labels == 0, 10, labels)[:, None]}
            scipy.io.savemat(folder / f"{part}_32x32.mat", as_written)
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
        # torchvision asks twice, and hangs up on the first answer.
        self.server.handle_error = lambda *_: None
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/"

    @staticmethod
    def _draw(seed: int, domain: str, train: bool, per_class: int) -> tuple[np.ndarray, np.ndarray]:
        """`(n, 28, 28)` or `(n, 32, 32, 3)` uint8 pixels and `(n,)` labels, shuffled."""
        draw = np.random.default_rng(seed)
        counts = [per_class - (domain == "svhn" and digit > 7) for digit in range(10)]
        labels = draw.permutation(np.repeat(np.arange(10, dtype=np.uint8), counts))
        size = (28, 28) if domain == "mnist" else (32, 32, 3)
        return draw.integers(256, size=(len(labels), *size), dtype=np.uint8), labels

    def _write_idx(self, name: str, values: np.ndarray) -> None:
        header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
        (self.folder / name).write_bytes(gzip.compress(header + values.tobytes(), mtime=0))
        self.mnist_files.append(name)

    def register(self, patch: pytest.MonkeyPatch, url: str) -> None:
        def md5(name: str) -> str:
            return hashlib.md5((self.folder / name).read_bytes(), usedforsecurity=False).hexdigest()

        patch.setenv("no_proxy", "127.0.0.1")
        patch.setattr(MNIST, "mirrors", [url])
        patch.setattr(MNIST, "resources", [(name, md5(name)) for name in self.mnist_files])
        parts = {part: f"{part}_32x32.mat" for part in ("train", "test")}
        patch.setattr(SVHN, "split_list", {part: [url + name, name, md5(name)] for part, name in parts.items()})

    def expected(self, domain: str, train: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """`(n, 3, 28, 28)` pixels and `(n,)` labels as they must be read, picked entry by entry."""
        pixels, labels = self.content[domain, train]
        read = np.empty((len(labels), 3, 28, 28), dtype=np.uint8)
        for channel, y, x in itertools.product(range(3), range(28), range(28)):
            read[:, channel, y, x] = pixels[:, y, x] if domain == "mnist" else pixels[:, y + 2, x + 2, channel]
        return torch.from_numpy(read), torch.from_numpy(labels.astype(np.int64))

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Official]:
    made = Official(tmp_path_factory.mktemp("official"))
    yield made
    made.close()


@pytest.fixture
def official(files: Official, monkeypatch: pytest.MonkeyPatch) -> Official:
    files.register(monkeypatch, files.url)
    return files


@pytest.fixture(scope="module")
def filled(files: Official, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder that already has every file."""
    root = tmp_path_factory.mktemp("filled")
    with pytest.MonkeyPatch.context() as patch:
        files.register(patch, files.url)
        numbers(0, root)
    return root


@pytest.fixture
def bench(official: Official, filled: Path) -> Benchmark:
    return numbers(0, filled, per_task_and_domain=10, download=False)


def nowhere() -> str:
    """An address on which nobody listens."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{closed.getsockname()[1]}/"


def of_user(user) -> Images:
    return Images.cat([user.evaluation, user.validation])


def of_server(server) -> Images:
    return Images.cat([server.train, server.validation])


def sort_key(pixels: torch.Tensor, labels: torch.Tensor) -> list[tuple[int, bytes]]:
    return sorted((int(label), picture.numpy().tobytes()) for picture, label in zip(pixels, labels, strict=True))


def is_mnist(images: Images) -> torch.Tensor:
    return (images.pixels == images.pixels[:, :1]).flatten(1).all(1)


def test_files_are_downloaded_checked_and_extracted_where_torchvision_keeps_them(official: Official, tmp_path: Path):
    bench = numbers(0, tmp_path / "new" / "folder")
    root = tmp_path / "new" / "folder"
    assert {path.name for path in (root / "SVHN").iterdir()} == {"train_32x32.mat", "test_32x32.mat"}
    raw = {path.name for path in (root / "MNIST" / "raw").iterdir()}
    assert raw == {*official.mnist_files, *(name.removesuffix(".gz") for name in official.mnist_files)}
    assert len(of_user(bench.users[1])) == 40


def test_what_is_there_is_not_downloaded_again(official: Official, filled: Path, monkeypatch: pytest.MonkeyPatch):
    with_network = numbers(0, filled)
    official.register(monkeypatch, nowhere())
    without = numbers(0, str(filled))
    for a, b in zip(with_network.server, without.server, strict=True):
        assert torch.equal(a.train.pixels, b.train.pixels)


def test_a_damaged_svhn_file_is_downloaded_again(official: Official, tmp_path: Path):
    (tmp_path / "SVHN").mkdir()
    (tmp_path / "SVHN" / "train_32x32.mat").write_bytes(b"interrupted")
    assert len(of_server(numbers(0, tmp_path).server[0])) == 2 * (12 + 9)


def test_users_are_svhn_then_mnist_with_all_their_test_images(bench: Benchmark, official: Official):
    assert [user.user for user in bench.users] == ["svhn", "mnist"]
    for user in bench.users:
        images = of_user(user)
        pixels, labels = official.expected(user.user, train=False)
        assert sort_key(images.pixels, images.labels) == sort_key(pixels, labels)


def test_svhn_is_the_central_crop_with_ten_read_as_zero_and_mnist_is_grey_in_three_channels(
    bench: Benchmark, official: Official
):
    for domain, offset in (("mnist", 0), ("svhn", 200_000)):
        pixels, labels = official.expected(domain, train=True)
        for server in bench.server:
            images = of_server(server)
            images = images[is_mnist(images) == (domain == "mnist")]
            index = images.sources - offset
            assert torch.equal(images.pixels, pixels[index])
            assert torch.equal(images.labels, labels[index])


def test_each_domain_has_its_own_normalisation(bench: Benchmark):
    for images in [*map(of_server, bench.server), *map(of_user, bench.users)]:
        for chosen, mean, std in ((is_mnist(images), 0.1307, 0.3081), (~is_mnist(images), 0.5, 0.5)):
            expected = (images.pixels[chosen].double() / 255 - mean) / std
            torch.testing.assert_close(images.inputs()[chosen].double(), expected, rtol=0, atol=2e-6)


def test_tasks_are_pairs_of_digits_and_hold_only_theirs(bench: Benchmark):
    assert [task.name for task in bench.tasks] == ["0-1", "2-3", "4-5", "6-7", "8-9"]
    assert (bench.shape, bench.classes) == ((3, 28, 28), 10)
    for i, (task, server) in enumerate(zip(bench.tasks, bench.server, strict=True)):
        assert task == server.task
        sides = [
            server.train,
            server.validation,
            *(side for u in bench.users for side in (u.of(task).evaluation, u.of(task).validation)),
        ]
        assert all(side.labels.unique().tolist() == [2 * i, 2 * i + 1] for side in sides)


@pytest.mark.parametrize(
    ("cap", "mnist", "svhn", "svhn_of_the_last"), [(10, 10, 10, 10), (17, 17, 17, 16), (99, 24, 18, 16)]
)
def test_the_server_has_as_many_of_each_domain_as_asked_or_all(official, filled, cap, mnist, svhn, svhn_of_the_last):
    for i, server in enumerate(numbers(0, filled, per_task_and_domain=cap).server):
        grey = int(is_mnist(of_server(server)).sum())
        assert grey == mnist
        assert len(of_server(server)) - grey == (svhn_of_the_last if i == 4 else svhn)


def test_no_source_is_on_two_sides_of_any_split(bench: Benchmark):
    sides = [side for server in bench.server for side in (server.train, server.validation)]
    parts = [user.of(task) for user in bench.users for task in bench.tasks]
    sides += [side for part in parts for side in (part.evaluation, part.validation)]
    sources = [set(side.sources.tolist()) for side in sides]
    assert len(sources) == (2 + 2 * 2) * 5
    assert all(sources)
    assert not any(a & b for a, b in itertools.combinations(sources, 2))


def test_the_server_images_are_a_draw_of_the_seed(bench: Benchmark, filled: Path):
    def drawn(of: Benchmark) -> list[set[int]]:
        return [set(of_server(server).sources.tolist()) for server in of.server]

    assert drawn(numbers(0, filled, per_task_and_domain=10)) == drawn(bench)
    other = drawn(numbers(1, filled, per_task_and_domain=10))
    assert all(a != b for a, b in zip(drawn(bench), other, strict=True))


def test_fewer_tasks_leave_the_others_as_they_were(bench: Benchmark, filled: Path):
    fewer = numbers(0, filled, tasks=2, per_task_and_domain=10)
    assert fewer.classes == 4
    for a, b in zip(fewer.server, bench.server[:2], strict=True):
        assert torch.equal(a.train.pixels, b.train.pixels)
    assert all(
        torch.equal(a.of(task).evaluation.pixels, b.of(task).evaluation.pixels)
        for a, b in zip(fewer.users, bench.users, strict=True)
        for task in fewer.tasks
    )


def refuse(official: Official, root: Path, patch: pytest.MonkeyPatch) -> None:
    official.register(patch, nowhere())


def refuse_svhn(official: Official, root: Path, patch: pytest.MonkeyPatch) -> None:
    split_list = {part: [nowhere() + name, name, md5] for part, (_, name, md5) in SVHN.split_list.items()}
    patch.setattr(SVHN, "split_list", split_list)


def wrong_mnist_digest(official: Official, root: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MNIST, "resources", [(name, "0" * 32) for name, _ in MNIST.resources])


def wrong_svhn_digest(official: Official, root: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SVHN, "split_list", {part: [*entry[:2], "0" * 32] for part, entry in SVHN.split_list.items()})


def not_on_the_server(official: Official, root: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MNIST, "mirrors", [official.url + "elsewhere/"])


def a_file_in_the_way(official: Official, root: Path, patch: pytest.MonkeyPatch) -> None:
    root.write_text("not a folder")


Trouble = Callable[[Official, Path, pytest.MonkeyPatch], None]


def check(raised: pytest.ExceptionInfo[InputError], domain: str, root: Path) -> None:
    """One line that names the data set, the folder, and two ways out."""
    message = str(raised.value)
    assert "\n" not in message
    assert message.startswith(domain)
    assert str(root) in message
    assert "another root" in message
    assert "benchmark digits" in message


@pytest.mark.parametrize(
    ("trouble", "domain"),
    [
        (refuse, "MNIST"),
        (refuse_svhn, "SVHN"),
        (wrong_mnist_digest, "MNIST"),
        (wrong_svhn_digest, "SVHN"),
        (not_on_the_server, "MNIST"),
        (a_file_in_the_way, "MNIST"),
    ],
)
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_a_failed_download_is_one_line_that_says_where_and_what_next(
    official: Official, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: Trouble, domain: str
):
    root = tmp_path / "data"
    trouble(official, root, monkeypatch)
    with pytest.raises(InputError) as raised:
        numbers(0, root)
    check(raised, domain, root)
    # torchvision leaves the connection of a refused request to the garbage collector, which complains of it.
    del raised
    gc.collect()


@pytest.mark.parametrize(
    ("missing", "domain"),
    [("MNIST/raw/t10k-labels-idx1-ubyte", "MNIST"), ("SVHN/train_32x32.mat", "SVHN"), ("SVHN/test_32x32.mat", "SVHN")],
)
def test_a_missing_file_without_download_is_one_line_that_says_where_and_what_next(
    official: Official, filled: Path, tmp_path: Path, missing: str, domain: str
):
    for path in filled.rglob("*"):
        if path.is_file() and path != filled / missing:
            link = tmp_path / path.relative_to(filled)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
    with pytest.raises(InputError) as raised:
        numbers(0, tmp_path, download=False)
    check(raised, domain, tmp_path)


def test_a_changed_svhn_file_without_download_is_refused(official: Official, filled: Path, tmp_path: Path):
    (tmp_path / "SVHN").mkdir()
    (tmp_path / "MNIST").symlink_to(filled / "MNIST")
    for name in ("train_32x32.mat", "test_32x32.mat"):
        content = bytearray((filled / "SVHN" / name).read_bytes())
        content[-1] ^= 1
        (tmp_path / "SVHN" / name).write_bytes(content)
    with pytest.raises(InputError) as raised:
        numbers(0, tmp_path, download=False)
    check(raised, "SVHN", tmp_path)


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_an_mnist_file_cut_short_is_refused(official: Official, filled: Path, tmp_path: Path, name: str):
    (tmp_path / "SVHN").symlink_to(filled / "SVHN")
    shutil.copytree(filled / "MNIST", tmp_path / "MNIST")
    path = tmp_path / "MNIST" / "raw" / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError) as raised:
        numbers(0, tmp_path, download=False)
    check(raised, "MNIST", tmp_path)


def test_a_relative_folder_is_named_in_full(official: Official, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=str(tmp_path / "here")):
        numbers(0, "here", download=False)
