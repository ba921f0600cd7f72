"""The way of MiniPlaces from the official files to a pool, on small files like the official ones."""

import hashlib
import io
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image

from dua_lightning.data import decode as decoding
from dua_lightning.data.miniplaces import ARCHIVE, CATEGORIES, LISTS, TRAIN, URLS, VALIDATION, miniplaces
from dua_lightning.data.pool import EVALUATION, EXTRA, SERVER, Pool
from dua_lightning.errors import InputError
from tests.data.scenes import Web, jpeg, picture, serving, tar

NAMES = ("abbey", "bakery/shop", "bar", "museum/indoor", "zoo")
TASKS = {"eat": ["bar", "bakery/shop"], "see": ["zoo", "abbey"]}
TRAINING, VALIDATED = 6, 4
"""Pictures of each category on the two lists."""


def paths() -> dict[str, list[tuple[str, int]]]:
    """The lines of the lists: validation pictures of all categories are mixed in one folder, as in the official one."""
    train = [(f"train/{n[0]}/{n}/{i:08}.jpg", c) for c, n in enumerate(NAMES) for i in range(TRAINING)]
    numbers = [c for _ in range(VALIDATED) for c in range(len(NAMES))]
    return {TRAIN: train, VALIDATION: [(f"val/{i:08}.jpg", c) for i, c in enumerate(numbers, 1)]}


def official(prefix: str = "images/") -> Web:
    lists = {name: "".join(f"{path} {c}\n" for path, c in lines) for name, lines in paths().items()}
    lists[CATEGORIES] = "".join(f"/{name[0]}/{name} {c}\n" for c, name in enumerate(NAMES))
    listed = [path for lines in paths().values() for path, _ in lines]
    members = {f"{prefix}{path}": jpeg(picture(i, 16, 16)) for i, path in enumerate(listed)}
    # The archive has pictures without labels too.
    members[f"{prefix}test/00000001.jpg"] = jpeg(picture(999, 16, 16))
    return Web(**{name: text.encode() for name, text in lists.items()}, **{ARCHIVE: tar(members, "w:gz")})


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def web() -> Iterator[Web]:
    with serving(official()) as serves:
        yield serves


def load(web: Web, root: Path, **options: object) -> Pool:
    given: dict[str, object] = {
        "size": 8,
        "tasks": TASKS,
        "server_per_category": 3,
        "evaluation_per_category": 2,
        "urls": {name: f"{web.url}/{name}" for name in URLS},
        "digests": {name: hashlib.sha256(web.files[name]).hexdigest() for name in LISTS},
    }
    return miniplaces(root, **{**given, **options})


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pool, Path]:
    root = tmp_path_factory.mktemp("miniplaces")
    with pytest.MonkeyPatch.context() as patch, serving(official()) as web:
        patch.setenv("no_proxy", "127.0.0.1")
        return load(web, root), root


@pytest.fixture
def ready(prepared: tuple[Pool, Path], tmp_path: Path) -> Path:
    """A folder with the lists and the unpacked pictures."""
    return Path(shutil.copytree(prepared[1], tmp_path / "ready", ignore=shutil.ignore_patterns("cache", ARCHIVE)))


def test_tasks_are_lists_of_categories(prepared: tuple[Pool, Path]) -> None:
    pool, _ = prepared
    assert [(task.name, task.classes) for task in pool.tasks] == [("eat", slice(0, 2)), ("see", slice(2, 4))]
    assert pool.categories == ("bakery/shop", "bar", "abbey", "zoo")
    assert pool.owners.unique().tolist() == [-1]


def test_sides_follow_the_official_lists_and_sources_are_places_in_them(prepared: tuple[Pool, Path]) -> None:
    pool, _ = prepared
    lines = [line for name in (TRAIN, VALIDATION) for line in paths()[name]]
    for label, side, source in zip(pool.labels.tolist(), pool.side.tolist(), pool.sources.tolist(), strict=True):
        path, number = lines[source]
        assert pool.categories[label] == NAMES[number]
        assert side != (EVALUATION if path.startswith("train/") else SERVER)
    for label in range(4):
        counts = [len(pool.where(side, [label])) for side in (SERVER, EVALUATION, EXTRA)]
        assert counts == [3, 2, TRAINING + VALIDATED - 5]


def test_pixels_are_those_of_the_files(prepared: tuple[Pool, Path]) -> None:
    pool, _ = prepared
    for index in range(0, len(pool.labels), 5):
        with Image.open(io.BytesIO(jpeg(picture(int(pool.sources[index]), 16, 16)))) as image:
            small = image.resize((8, 8), Image.Resampling.BILINEAR)
        expected = torch.tensor(list(small.tobytes())).view(8, 8, 3).permute(2, 0, 1)
        assert (pool.pixels[index].int() - expected).abs().max() <= 1


def test_everything_comes_from_the_web_once(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    web.breaks = [10]
    first = load(web, tmp_path / "root")
    assert [name for name, _ in web.asked] == [CATEGORIES, CATEGORIES, TRAIN, VALIDATION, ARCHIVE]
    monkeypatch.setattr(decoding, "decode", lambda *_: pytest.fail("decoded again"))
    again = load(web, tmp_path / "root", download=False)
    assert torch.equal(again.pixels, first.pixels)
    assert torch.equal(again.side, first.side)
    assert len(web.asked) == 5


@pytest.mark.parametrize("prefix", ["images/", "", "data/images/"])
def test_pictures_are_found_where_people_unpack_them(prefix: str, web: Web, tmp_path: Path) -> None:
    for path in (p for lines in paths().values() for p, _ in lines):
        file = tmp_path / prefix / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(jpeg(picture(1, 16, 16)))
    for name in LISTS:
        (tmp_path / name).write_bytes(web.files[name])
    assert len(load(web, tmp_path, download=False).labels) == 40
    assert web.asked == []


def test_a_part_of_the_data_set_can_be_used_and_what_lacks_is_counted(
    web: Web, ready: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (ready / "data" / "images" / "train" / "z" / "zoo" / "00000005.jpg").unlink()
    with caplog.at_level(logging.WARNING):
        pool = load(web, ready)
    assert len(pool.labels) == 39
    assert "39 of the 40 listed pictures of these categories are there" in caplog.text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tasks": {"a": ["barr", "zoo"]}}, "MiniPlaces has no category barr, which task a asks for; did you mean bar"),
        ({"tasks": {"a": ["bar"]}}, "task a has 1 categories"),
        ({"tasks": {"a": ["bar", "zoo"], "b": ["zoo", "abbey"]}}, "category zoo is in the tasks a and b"),
        ({"tasks": {"a": ["bar", "bar"]}}, "category bar is in the tasks a and a"),
        ({"server_per_category": 7}, "server_per_category=7 is out of range for category bakery/shop"),
        ({"evaluation_per_category": 5}, "evaluation_per_category=5 .* 4 pictures of the official validation list"),
        ({"server_per_category": 1}, "give 2 to that many"),
        ({"size": 0}, "size=0"),
    ],
)
def test_what_cannot_be_met_is_one_line(options: dict[str, object], said: str, web: Web, ready: Path) -> None:
    with pytest.raises(InputError, match=said):
        load(web, ready, **options)


def test_nothing_is_downloaded_where_it_may_not_be(web: Web, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"devkit/categories.txt is missing; .* or run once with network access"):
        load(web, tmp_path, download=False)


def test_a_list_that_is_not_the_official_one_is_refused(web: Web, ready: Path) -> None:
    path = ready / "devkit" / TRAIN
    path.write_text(path.read_text().replace("zoo/00000001", "zoo/00000002", 1))
    with pytest.raises(InputError, match=r"train.txt has the SHA-256 digest"):
        load(web, ready)


def test_an_archive_with_another_digest_than_the_first_is_refused(web: Web, ready: Path) -> None:
    shutil.rmtree(ready / "data")
    web.files[ARCHIVE] = official("other/").files[ARCHIVE]
    with pytest.raises(InputError, match=f"{ARCHIVE}.* has the SHA-256 digest"):
        load(web, ready)


def test_an_archive_without_the_folders_is_refused(web: Web, tmp_path: Path) -> None:
    web.files[ARCHIVE] = tar({"pictures/a.jpg": b""}, "w:gz")
    with pytest.raises(InputError, match="has no folders train and val"):
        load(web, tmp_path)
    assert not (tmp_path / f"{ARCHIVE}.sha256").exists()


def test_the_default_tasks_are_supercategories_of_mit_indoor_scenes() -> None:
    from importlib.resources import files

    tables = files("dua_lightning.data").joinpath("tables")
    table = pd.read_csv(tables.joinpath("miniplaces_supercategories.csv"))
    assert table["supercategory"].unique().tolist() == ["home", "leisure", "public", "store"]
    assert table["supercategory"].value_counts().to_dict() == {"home": 8, "leisure": 8, "public": 8, "store": 7}
    assert not table["category"].duplicated().any()
