"""The way of MIT Indoor Scenes from the official files to a pool, on a small archive like the official one."""

import hashlib
import io
import logging
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dua_lightning.data import decode as decoding
from dua_lightning.data import mit_indoor as module
from dua_lightning.data.mit_indoor import ARCHIVE, TASKS, mit_indoor
from dua_lightning.data.pool import EVALUATION, EXTRA, SERVER, Pool
from dua_lightning.errors import InputError
from tests.data import scenes
from tests.data.scenes import Web, categories, jpeg, mit_members, mit_web, picture, serving, tar

PER_CATEGORY = scenes.TRAIN + scenes.TEST + scenes.EXTRA
PICTURES = 67 * PER_CATEGORY
SIZE = 8


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def web() -> Iterator[Web]:
    with serving(mit_web()) as serves:
        yield serves


def load(web: Web, root: Path, **options: object) -> Pool:
    urls = {name: f"{web.url}/{name}" for name in web.files}
    return mit_indoor(root, **{"size": SIZE, "urls": urls, "pictures": PICTURES, **options})


def add(path: Path, *lines: str) -> None:
    path.write_text("\n".join([path.read_text(), *lines]))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pool, Path]:
    """A pool that was downloaded, and its folder; only to be read."""
    root = tmp_path_factory.mktemp("mit")
    with pytest.MonkeyPatch.context() as patch, serving(mit_web()) as web:
        patch.setenv("no_proxy", "127.0.0.1")
        return load(web, root), root


@pytest.fixture
def ready(prepared: tuple[Pool, Path], tmp_path: Path) -> Path:
    """A folder with everything in it but a cache."""
    return Path(shutil.copytree(prepared[1], tmp_path / "ready", ignore=shutil.ignore_patterns("cache")))


def test_tasks_and_categories_are_those_of_the_paper(prepared: tuple[Pool, Path]) -> None:
    pool, _ = prepared
    assert [task.name for task in pool.tasks] == ["home", "leisure", "public", "store"]
    assert [task.classes.stop - task.classes.start for task in pool.tasks] == [14, 11, 14, 12]
    assert pool.tasks[0].classes.start == 0
    for task in pool.tasks:
        of_task = pool.categories[task.classes]
        assert list(of_task) == sorted(c for c, supercategory in categories().items() if supercategory == task.name)
    assert "office" not in pool.categories


def test_sides_follow_the_official_lists_and_sources_the_names_of_all(prepared: tuple[Pool, Path]) -> None:
    pool, root = prepared
    names = sorted(name.removeprefix("Images/") for name in mit_members())
    assert len(pool.labels) == 51 * PER_CATEGORY
    assert pool.sources.tolist() == [i for i, n in enumerate(names) if categories()[n.partition("/")[0]] in TASKS]
    for label, side, source in zip(pool.labels.tolist(), pool.side.tolist(), pool.sources.tolist(), strict=True):
        category, _, file = names[source].partition("/")
        assert pool.categories[label] == category
        assert side == (SERVER, SERVER, SERVER, EVALUATION, EXTRA, EXTRA)[int(file[0])]
    assert root.joinpath("indoorCVPR_09", "Images", "gym", "5.JPG").exists(), "the ending's case does not matter"


def test_pixels_are_those_of_the_files(prepared: tuple[Pool, Path]) -> None:
    pool, _ = prepared
    names = sorted(mit_members())
    for index in range(0, len(pool.labels), 37):
        with Image.open(io.BytesIO(mit_members()[names[pool.sources[index]]])) as image:
            # 24x16 pictures: the short side is halved, and two columns are cut on either side.
            expected = np.asarray(image.resize((12, 8), Image.Resampling.BILINEAR)).transpose(2, 0, 1)[:, :, 2:10]
        assert np.abs(pool.pixels[index].numpy().astype(int) - expected.astype(int)).max() <= 1


def test_a_pool_as_it_should_be(prepared: tuple[Pool, Path]) -> None:
    pool, _ = prepared
    assert pool.name == "mit_indoor"
    assert pool.pixels.dtype == pool.side.dtype == torch.uint8
    assert pool.labels.dtype == pool.sources.dtype == pool.owners.dtype == torch.int64
    assert pool.owners.unique().tolist() == [-1]
    assert len(pool.owners) == len(pool.labels)


def test_everything_comes_from_the_web_once(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    web.breaks = [10]
    first = load(web, tmp_path / "deep" / "root")
    assert [name for name, _ in web.asked] == ["TrainImages.txt", "TrainImages.txt", "TestImages.txt", ARCHIVE]
    monkeypatch.setattr(decoding, "decode", lambda *_: pytest.fail("decoded again"))
    for download in (True, False):
        again = load(web, tmp_path / "deep" / "root", download=download)
        assert again.pixels.equal(first.pixels)
    assert len(web.asked) == 4
    assert {path.name for path in (tmp_path / "deep" / "root").iterdir()} == {
        *("TrainImages.txt", "TestImages.txt", ARCHIVE, f"{ARCHIVE}.sha256", "indoorCVPR_09", "cache"),
        ".mit_indoor.lock",
    }


@pytest.mark.parametrize("place", ["Images", "indoorCVPR_09/Images"])
def test_an_unpacked_folder_needs_neither_archive_nor_web(place: str, web: Web, ready: Path) -> None:
    (ready / ARCHIVE).unlink()
    if place == "Images":
        (ready / "indoorCVPR_09" / "Images").rename(ready / "Images")
    pool = load(web, ready, download=False)
    assert len(pool.labels) == 51 * PER_CATEGORY
    assert web.asked == []


def test_an_archive_that_is_there_needs_no_web(web: Web, ready: Path) -> None:
    shutil.rmtree(ready / "indoorCVPR_09")
    (ready / f"{ARCHIVE}.sha256").unlink()
    load(web, ready, download=False)
    assert web.asked == []
    digest = hashlib.sha256((ready / ARCHIVE).read_bytes()).hexdigest()
    assert (ready / f"{ARCHIVE}.sha256").read_text() == f"{digest}\n"


def test_a_cache_can_lie_elsewhere(web: Web, ready: Path, tmp_path: Path) -> None:
    load(web, ready, cache=tmp_path / "fast")
    assert not (ready / "cache").exists()
    assert len([path for path in (tmp_path / "fast").iterdir() if path.suffix == ".npy"]) == 1


@pytest.mark.parametrize("missing", [ARCHIVE, "TrainImages.txt", "TestImages.txt"])
def test_without_download_what_is_missing_is_named(missing: str, web: Web, ready: Path) -> None:
    (ready / missing).unlink()
    if missing == ARCHIVE:
        shutil.rmtree(ready / "indoorCVPR_09")
    with pytest.raises(InputError, match=f"{missing} is missing; put it there, from {web.url}/{missing}, or run once"):
        load(web, ready, download=False)
    assert web.asked == []


@pytest.mark.parametrize("known", ["given", "kept"])
def test_a_download_with_another_digest_is_removed(known: str, web: Web, ready: Path) -> None:
    shutil.rmtree(ready / "indoorCVPR_09")
    (ready / ARCHIVE).unlink()
    kept = (ready / f"{ARCHIVE}.sha256").read_text()
    web.files[ARCHIVE] = tar({**mit_members(), "Images/gym/6.jpg": b"tampered"})
    with pytest.raises(InputError, match=r"has the SHA-256 digest \w{64}, not \w{64}, and was removed"):
        load(web, ready, sha256=kept.strip() if known == "given" else None)
    assert not list(ready.glob(f"{ARCHIVE}*part*"))
    assert not (ready / ARCHIVE).exists()
    assert not (ready / "indoorCVPR_09").exists()
    assert (ready / f"{ARCHIVE}.sha256").read_text() == kept
    web.files[ARCHIVE] = tar(mit_members())
    load(web, ready)


@pytest.mark.parametrize("known", ["given", "kept"])
def test_an_archive_that_is_there_is_compared_too_and_never_removed(known: str, web: Web, ready: Path) -> None:
    shutil.rmtree(ready / "indoorCVPR_09")
    (ready / ARCHIVE).write_bytes(tar({**mit_members(), "Images/gym/6.jpg": b"tampered"}))
    text = r"tar has the SHA-256 digest \w{64}, not \w{64}; delete it to download it again"
    with pytest.raises(
        InputError, match=f"{text}$" if known == "given" else f"{text}, or delete .*sha256 if you trust"
    ):
        load(web, ready, sha256="0" * 64 if known == "given" else None)
    assert (ready / ARCHIVE).exists()
    assert not (ready / "indoorCVPR_09").exists()


def test_a_given_digest_that_agrees_is_fine(web: Web, tmp_path: Path) -> None:
    load(web, tmp_path, sha256=hashlib.sha256(web.files[ARCHIVE]).hexdigest().upper())


@pytest.mark.parametrize("content", [b"<html>sign in</html>", tar(mit_members())[:200_000]], ids=["a web page", "cut"])
def test_what_is_no_whole_archive_is_not_unpacked_and_its_digest_not_kept(
    content: bytes, web: Web, tmp_path: Path
) -> None:
    web.files[ARCHIVE] = content
    with pytest.raises(InputError, match=rf"{ARCHIVE} cannot be unpacked .*delete it and get it again"):
        load(web, tmp_path)
    assert not (tmp_path / "indoorCVPR_09").exists()
    assert not (tmp_path / f"{ARCHIVE}.sha256").exists()
    (tmp_path / ARCHIVE).unlink()
    web.files[ARCHIVE] = tar(mit_members())
    load(web, tmp_path)


def test_the_digest_of_an_archive_with_pictures_missing_is_not_kept(web: Web, tmp_path: Path) -> None:
    members = mit_members()
    web.files[ARCHIVE] = tar({name: members[name] for name in members if name != "Images/gym/4.jpg"})
    with pytest.raises(InputError, match=f"not the {PICTURES} of the archive"):
        load(web, tmp_path)
    assert not (tmp_path / f"{ARCHIVE}.sha256").exists()


def test_an_archive_of_something_else(web: Web, tmp_path: Path) -> None:
    web.files[ARCHIVE] = tar({"pictures/gym/1.jpg": b""})
    with pytest.raises(InputError, match=r"has no folder Images; delete it"):
        load(web, tmp_path)


def test_what_is_missing_from_the_folder_is_named(web: Web, ready: Path) -> None:
    images = ready / "indoorCVPR_09" / "Images"

    def fails(text: str) -> None:
        with pytest.raises(InputError, match=text) as caught:
            load(web, ready)
        assert "\n" not in str(caught.value)

    (images / "gym" / "4.jpg").rename(ready / "away")
    fails(rf"has {PICTURES - 1} pictures, not the {PICTURES} of the archive; delete .*Images and .*tar")
    (ready / "away").rename(images / "gym" / "4.jpg")
    load(web, ready)

    (images / "gym" / "0.jpg").rename(ready / "away")
    fails(r"1 picture \(gym/0\.jpg\) of .*TrainImages\.txt cannot be found")
    (ready / "away").rename(images / "gym" / "0.jpg")
    add(ready / "TestImages.txt", *(f"gym/x{i}.jpg" for i in range(5)))
    fails(r"5 pictures \(gym/x0\.jpg, gym/x1\.jpg, gym/x2\.jpg, \.\.\.\) of .*TestImages\.txt cannot be found")
    (ready / "TestImages.txt").write_text("")
    fails(r"TestImages\.txt is empty; delete it")
    (ready / "TestImages.txt").unlink()
    load(web, ready)

    (images / "gym").rename(ready / "away")
    fails(r"no pictures of 1 category \(gym\); delete")
    (images / "office").rename(images / "workplace")
    fails(r"no pictures of 2 categories \(gym, office\)")
    (ready / "away").rename(images / "gym")
    shutil.copytree(images / "workplace", images / "office")
    fails(r"1 unknown category \(workplace\); remove or rename")


def test_the_number_of_pictures_is_the_official_one(web: Web, ready: Path) -> None:
    assert module.PICTURES == 15_620
    with pytest.raises(InputError, match="not the 15620 of the archive"):
        load(web, ready, pictures=module.PICTURES)


def test_a_picture_on_both_lists_is_for_evaluation(web: Web, ready: Path) -> None:
    add(ready / "TrainImages.txt", "gym/3.jpg")
    assert len(load(web, ready).where(EVALUATION)) == 51 * scenes.TEST


def test_unreadable_pictures_stop_or_are_left_out(web: Web, ready: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = ready / "indoorCVPR_09" / "Images"
    (images / "gym" / "2.jpg").write_bytes(b"damaged")
    (images / "office" / "2.jpg").write_bytes(b"of a category that nobody reads")
    with pytest.raises(InputError, match=rf"1 of {51 * PER_CATEGORY} pictures .*gym/2\.jpg is not a picture that"):
        load(web, ready)
    with caplog.at_level(logging.WARNING):
        pool = load(web, ready, skip_unreadable=True)
    assert "['gym/2.jpg']" in caplog.text
    gym = pool.categories.index("gym")
    assert [len(pool.where(side, [gym])) for side in (SERVER, EVALUATION, EXTRA)] == [2, 1, 2]
    lost = sorted(mit_members()).index("Images/gym/2.jpg")
    assert lost not in pool.sources.tolist()
    assert len(pool.labels) == len(pool.pixels) == len(pool.side) == len(pool.owners) == 51 * PER_CATEGORY - 1


def test_orientation_is_ignored(web: Web, ready: Path) -> None:
    path = ready / "indoorCVPR_09" / "Images" / "gym" / "0.jpg"
    exif = Image.Exif()
    exif[0x0112] = 3
    image = Image.open(io.BytesIO(jpeg(picture(0, 8, 8))))
    image.save(path, quality=95, exif=exif)
    source = sorted(mit_members()).index("Images/gym/0.jpg")
    pool = load(web, ready)
    found = pool.pixels[(pool.sources == source).nonzero()[0, 0]].numpy().transpose(1, 2, 0)
    assert (found == np.asarray(Image.open(path))).all()


def test_a_root_that_cannot_be_made(web: Web, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot be prepared in .*file/root .*choose a folder"):
        load(web, tmp_path / "file" / "root")


@pytest.mark.slow
def test_processes_that_start_together_download_once(web: Web, tmp_path: Path) -> None:
    code = f"""
from dua_lightning.data.mit_indoor import mit_indoor
urls = {{name: f"{web.url}/{{name}}" for name in {sorted(web.files)}}}
pool = mit_indoor({str(tmp_path / "root")!r}, {SIZE}, urls=urls, pictures={PICTURES})
print(int(pool.pixels.sum()))
"""
    processes = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    first, second = (process.communicate()[0] for process in processes)
    assert first == second != ""
    assert sorted(name for name, _ in web.asked) == sorted(web.files)


def test_users_pictures_can_be_cut_at_their_own_scale_and_the_servers_never_are(web: Web, ready: Path) -> None:
    pool = load(web, ready, resize_users=False)
    plain = load(web, ready)
    names = sorted(mit_members())
    for index in range(0, len(pool.labels), 37):
        if pool.side[index] == SERVER:
            assert torch.equal(pool.pixels[index], plain.pixels[index])
            continue
        with Image.open(io.BytesIO(mit_members()[names[pool.sources[index]]])) as image:
            # 24x16 pictures: the central 8x8.
            expected = np.asarray(image).transpose(2, 0, 1)[:, 4:12, 8:16]
        assert (pool.pixels[index].numpy() == expected).all()
