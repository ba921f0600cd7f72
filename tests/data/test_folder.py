"""Pictures of one's own: both layouts, and every way in which a folder can be wrong."""

import errno
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from dua_lightning.data.decode import decode
from dua_lightning.data.folder import folder
from dua_lightning.data.own_users import own_users
from dua_lightning.data.pool import EVALUATION, EXTRA, SERVER, Pool
from dua_lightning.data.preprocessing import Preprocessing
from dua_lightning.errors import InputError
from tests.data.scenes import picture

LAYOUT = {"indoors": ("bath", "kitchen", "stairs"), "outdoors": ("beach", "street")}


def put(where: Path, count: int, seed: int = 0) -> None:
    where.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        picture(seed + i, 20 + i, 14).save(where / f"{i:02}.png")


@pytest.fixture
def server(tmp_path: Path) -> Path:
    """Ten pictures of each of five categories, written in no useful order."""
    for place, (task, name) in enumerate(reversed([(t, n) for t, names in LAYOUT.items() for n in names])):
        put(tmp_path / "in" / "server" / task / name, 10, 100 * place)
    return tmp_path / "in"


@pytest.fixture
def both(server: Path) -> Path:
    """And two users: one with some categories, one with all."""
    for place, name in enumerate(("indoors/kitchen", "outdoors/beach", "outdoors/street")):
        put(server / "users" / "ann" / name, 3, 1000 + 100 * place)
    for place, name in enumerate(f"{task}/{name}" for task, names in LAYOUT.items() for name in names):
        put(server / "users" / "Bob" / name, 2, 2000 + 100 * place)
    return server


def load(root: Path, skip_unreadable: bool = False) -> Pool:
    return folder(root, 8, root.parent / "cache", skip_unreadable)


def shown(pool: Pool) -> dict[str, tuple[int, int, int]]:
    """Bytes of each picture -> label, side, owner."""
    values = zip(pool.labels.tolist(), pool.side.tolist(), pool.owners.tolist(), strict=True)
    return {pixels.numpy().tobytes(): value for pixels, value in zip(pool.pixels, values, strict=True)}


def test_tasks_and_categories_are_sorted_by_name(server: Path) -> None:
    pool = load(server)
    assert pool.name == "folder"
    assert [(task.name, pool.categories[task.classes]) for task in pool.tasks] == list(LAYOUT.items())


def test_without_users_each_category_is_divided(server: Path) -> None:
    put(server / "server" / "indoors" / "bath", 17, 5000)
    pool = load(server)
    expected = {0: (8, 4, 5), 1: (5, 2, 3), 2: (5, 2, 3), 3: (5, 2, 3), 4: (5, 2, 3)}
    for label, counts in expected.items():
        assert tuple(len(pool.where(side, [label])) for side in (SERVER, EVALUATION, EXTRA)) == counts
    assert pool.owners.unique().tolist() == [-1]
    assert pool.users == ()
    assert pool.sources.unique().numel() == len(pool.labels) == 57
    firsts = [pool.where(SERVER, [label])[:3].tolist() for label in range(1, 5)]
    assert len({tuple(i - first[0] for i in first) for first in firsts}) > 1, "categories are divided independently"


def test_every_file_is_its_own_picture_and_has_the_label_of_its_folder(both: Path) -> None:
    found = shown(load(both))
    names = [(t, n) for t, of_task in LAYOUT.items() for n in of_task]
    files = sorted(both.rglob("*.png"))
    assert len(found) == len(files) == 69
    for path in files:
        of_user = path.parts[-5] == "users"
        owner = {"Bob": 0, "ann": 1}[path.parts[-4]] if of_user else -1
        label = names.index((path.parts[-3], path.parts[-2]))
        assert found[decode(path, 8, upright=True).tobytes()] == (label, EXTRA if of_user else SERVER, owner)
    assert load(both).users == ("Bob", "ann")


def test_a_division_is_the_same_again_and_elsewhere(server: Path, tmp_path: Path) -> None:
    shutil.copytree(server, tmp_path / "elsewhere" / "copy")
    assert shown(load(server)) == shown(load(server)) == shown(load(tmp_path / "elsewhere" / "copy"))


@pytest.mark.parametrize("count", range(4, 14))
def test_even_the_fewest_make_three_sides(count: int, tmp_path: Path) -> None:
    for name in "ab":
        put(tmp_path / "in" / "server" / "t" / name, count, ord(name))
    pool = load(tmp_path / "in")
    for label in (0, 1):
        server, evaluation, extra = (len(pool.where(side, [label])) for side in (SERVER, EVALUATION, EXTRA))
        assert min(server, evaluation, extra) >= 1
        assert server + evaluation + extra == count
        assert abs(server - count / 2) <= 1
        assert abs(evaluation - count / 5) <= 1


LEFT = ("__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "system volume information", ".hidden")


@pytest.mark.parametrize("name", LEFT)
def test_what_file_managers_and_archives_leave_is_passed_over_at_each_level(name: str, both: Path) -> None:
    levels = (both, both / "server", both / "server/indoors", both / BATH, both / "users", both / ANN)
    for level in (*levels, both / ANN / "outdoors", both / ANN / "outdoors/beach"):
        (level / name / "more").mkdir(parents=True)
        (level / name / "SYNO@.fileindexdb").write_text("x")
    assert len(load(both).labels) == 69


def test_files_of_file_managers_are_passed_over_in_any_case(both: Path) -> None:
    names = (".DS_Store", "Thumbs.db", "THUMBS.DB", "desktop.ini", "Desktop.ini", "ehthumbs.db", "Icon\r", "._00.png")
    for path in (both / BATH, both / ANN / "outdoors" / "beach", both / "users", both / "server"):
        for name in names:
            (path / name).write_bytes(b"x")
    (both / "README.txt").write_text("beside server and users, anything may lie")
    assert len(load(both).labels) == 69


def test_pictures_are_turned_upright(server: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    image = picture(9, 8, 8)
    image.save(server / "server" / "indoors" / "bath" / "aa.png", exif=exif)
    image.rotate(180).save(server / "server" / "indoors" / "bath" / "ab.png")
    pool = load(server)
    assert pool.pixels[10].equal(pool.pixels[11])


BATH, ANN = "server/indoors/bath", "users/ann"


def _empty(path: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        for file in (root / path).iterdir():
            file.unlink()

    return change


def _few(path: str, left: int) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        for file in sorted((root / path).iterdir())[left:]:
            file.unlink()

    return change


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "no root": (shutil.rmtree, r"is not a folder; give the one that holds server/TASK/CATEGORY"),
    "no server": (lambda root: shutil.rmtree(root / "server"), r"has no folder server; put .* as server/TASK/CATEGORY"),
    "no tasks": (lambda root: (shutil.rmtree(root / "server"), (root / "server").mkdir()), r"server has no tasks"),
    "no category": (lambda root: (root / "server" / "attic").mkdir(), r"task .*attic has 0 categories; put pictures"),
    "one category": (lambda root: put(root / "server" / "attic" / "box", 9), r"task .*attic has 1 category; give it"),
    "empty category": (_empty(BATH), r"bath has no pictures; put some there or remove the folder"),
    "one picture": (_few(BATH, 1), r"bath has 1 pictures that can be read; at least 2 are needed"),
    "folder in between": (lambda root: (root / BATH / "more").mkdir(), r"bath/more is no file"),
    "misspelt users": (
        lambda root: (root / "users").rename(root / "Users"),
        r"in/Users would not be read; call it users",
    ),
    "misspelt server": (lambda root: (root / "sever").mkdir(), r"in/sever would not be read; call it server"),
    "users that are a file": (
        lambda root: (shutil.rmtree(root / "users"), (root / "users").write_text("")),
        r"in/users is a file; it should be a folder",
    ),
    **{
        f"a file among {what}": (
            lambda root, where=where: (root / where / "bob.zip").write_text(""),
            rf"bob\.zip is a file where the folder of a {what} belongs; move it .*skip_unreadable=true",
        )
        for what, where in {"task": "server", "category": "server/indoors", "user": "users"}.items()
    },
    "no users": (lambda root: [shutil.rmtree(root / "users"), (root / "users").mkdir()], r"users has no users; put"),
    "unknown task": (
        lambda root: put(root / ANN / "space" / "moon", 3),
        r"ann/space is no task of the server; rename it, or make server/space; there are indoors, outdoors",
    ),
    "unknown category": (
        lambda root: put(root / ANN / "indoors" / "cellar", 3),
        r"cellar is no category of the server's task indoors; .* server/indoors/cellar; there are bath, kitchen,",
    ),
    "misspelt category": (lambda root: put(root / ANN / "indoors" / "Kitchn", 3), r"; did you mean kitchen\?"),
    "misspelt task": (lambda root: put(root / ANN / "Outdoors", 3), r"; did you mean outdoors\?"),
    "category without its task": (
        lambda root: put(root / ANN / "beach", 3),
        r"ann/beach is no task of the server, but a category of task outdoors; move it to .*ann/outdoors/beach",
    ),
    "category of another task": (lambda root: put(root / ANN / "indoors" / "beach", 3), r"indoors/beach is no categ"),
    "empty category of a user": (_empty(f"{ANN}/indoors/kitchen"), r"ann/indoors/kitchen has no pictures"),
    "nobody with every task": (
        lambda root: (shutil.rmtree(root / ANN / "indoors"), shutil.rmtree(root / "users/Bob/outdoors")),
        r"no user is left: user Bob has 0 pictures of task outdoors that can be read; each user needs at least 2",
    ),
    "a pipe": (lambda root: os.mkfifo(root / BATH / "pipe"), r"bath/pipe is no file and no folder; remove it"),
    "no picture": (
        lambda root: (root / BATH / "05.png").write_text("x"),
        r"1 of 69 .*bath/05\.png is not a picture that",
    ),
    "a user's no picture": (
        lambda root: (root / ANN / "outdoors" / "beach" / "00.png").write_bytes(b""),
        r"ann/outdoors/beach/00\.png is not a picture that .*skip_unreadable=true",
    ),
}


@pytest.mark.parametrize(("change", "text"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_named(change: Callable[[Path], object], text: str, both: Path) -> None:
    change(both)
    with pytest.raises(InputError, match=text) as caught:
        load(both)
    assert "\n" not in str(caught.value)


PLACES = (
    *("", "server", "server/indoors", BATH, f"{BATH}/05.png"),
    *("users", ANN, f"{ANN}/outdoors", f"{ANN}/outdoors/beach"),
)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("target", "reason"), [("/mnt/usb/gone", "which is not there"), (None, "which leads back to it")]
)
def test_a_link_that_leads_nowhere_is_named_with_its_target(
    target: str | None, reason: str, place: str, both: Path
) -> None:
    path = both / place
    path.rename(both.parent / "away")
    target = target or path.name
    path.symlink_to(target)
    with pytest.raises(InputError) as caught:
        load(both)
    assert f"{path} " in str(caught.value)
    assert f"is a link to {target}, {reason}; " in str(caught.value).replace(")", "")
    assert "\n" not in str(caught.value)


def test_links_that_lead_somewhere_are_followed(both: Path, tmp_path: Path) -> None:
    expected = shown(load(both))
    for place in PLACES:
        (both / place).rename(tmp_path / "away")
        (both / place).symlink_to(tmp_path / "away")
        assert shown(load(both)) == expected, place
        (both / place).unlink()
        (tmp_path / "away").rename(both / place)


def test_what_cannot_be_used_is_left_out_on_request_and_named(both: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = shown(load(both))
    (both / "users" / "carl").symlink_to("/mnt/usb/carl")
    (both / "users" / "notes.txt").write_text("")
    (both / ANN / "indoors" / "bath").symlink_to("bath")
    (both / "server" / "garden").symlink_to("gone")
    (both / "server" / "indoors" / "hall").mkdir()
    (both / BATH / "99.png").symlink_to("gone")
    with caplog.at_level(logging.WARNING):
        found = load(both, skip_unreadable=True)
    assert shown(found) == expected
    assert found.users == ("Bob", "ann")
    assert "2 of 71 pictures" in caplog.text
    assert "server/indoors/bath/99.png" in caplog.text
    assert f"4 folders and files in {both} are left out" in caplog.text
    for name in ("users/carl", "users/notes.txt", "indoors/bath", "server/garden", "indoors/hall"):
        assert name in caplog.text


def test_a_folder_that_may_not_be_read_is_named(both: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Path.iterdir

    def refused(path: Path) -> Iterator[Path]:
        if path.name == "beach":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return plain(path)

    monkeypatch.setattr(Path, "iterdir", refused)
    with pytest.raises(InputError, match=r"server/outdoors/beach cannot be read \(Permission denied\); get leave"):
        load(both)


def test_names_are_compared_in_one_unicode_form_and_shown_as_they_are(server: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    shutil.copytree(server, plain)
    composed, apart = "caf\u00e9", "cafe\u0301"
    for root, form in ((server, composed), (plain, apart)):
        task = (root / "server" / "indoors").rename(root / "server" / f"\u00c4{form}")
        (task / "bath").rename(task / form)
    first, second = load(server), load(plain)
    assert shown(first) == shown(second), "the division does not depend on the form"
    assert first.tasks[1].name == f"\u00c4{composed}"
    assert second.tasks[1].name == f"\u00c4{apart}"
    put(server / "users" / "ann" / f"A\u0308{apart}" / apart, 3, 1000)
    put(server / "users" / "ann" / "outdoors" / "beach", 3, 2000)
    pool = load(server)
    assert sorted(pool.labels[pool.owners == 0].tolist()) == [0] * 3 + [2 + pool.categories[2:].index(composed)] * 3


@pytest.mark.parametrize("place", ["server", BATH.rpartition("/")[0], "users", ANN])
def test_names_that_differ_in_their_form_alone_are_refused(place: str, both: Path) -> None:
    for name in ("caf\u00e9", "cafe\u0301"):
        put(both / place / name / "x" / "y", 2)
    with pytest.raises(InputError, match=r"cafe\u0301 and .*caf\u00e9 are written alike|caf\u00e9 and .*cafe"):
        load(both)


def test_a_name_that_is_no_utf_8_is_spelt_out(both: Path) -> None:
    os.rename(bytes(both / "users" / "ann"), bytes(both / "users") + b"/Jos\xe9")
    for place in (both / "server", both / "users" / "Bob", Path(os.fsdecode(bytes(both / "users") + b"/Jos\xe9"))):
        os.rename(bytes(place / "indoors"), bytes(place) + b"/sal\xf3n")
    pool = load(both)
    assert pool.users == ("Bob", "Jos\\xe9")
    assert [task.name for task in pool.tasks] == ["outdoors", "sal\\xf3n"]
    put(both / "users" / "Jos\\xe9" / "outdoors" / "beach", 3)
    with pytest.raises(InputError, match=r"Jos\\xe9 and .*Jos\\xe9 are written alike"):
        load(both)


def test_a_category_too_small_to_be_divided_is_named(server: Path) -> None:
    _few(BATH, 3)(server)
    with pytest.raises(InputError, match=r"bath has 3 pictures that can be read; at least 4 are needed"):
        load(server)


def test_unreadable_pictures_can_be_left_out(both: Path, caplog: pytest.LogCaptureFixture) -> None:
    (both / BATH / "05.png").write_bytes(b"x")
    (both / ANN / "outdoors" / "beach" / "00.png").write_bytes(b"x")
    with caplog.at_level(logging.WARNING):
        pool = load(both, skip_unreadable=True)
    assert "2 of 69 pictures" in caplog.text
    assert "server/indoors/bath/05.png" in caplog.text
    assert "users/ann/outdoors/beach/00.png" in caplog.text
    found = shown(pool)
    assert len(found) == 67
    lost = {"05.png": "bath", "00.png": "beach"}
    for path in both.rglob("*.png"):
        if not (lost.get(path.name) == path.parent.name and path.stat().st_size == 1):
            assert decode(path, 8, upright=True).tobytes() in found


def test_what_cannot_be_read_does_not_count(both: Path) -> None:
    for path in sorted((both / BATH).iterdir())[1:]:
        path.write_bytes(b"x")
    with pytest.raises(InputError, match=r"bath has 1 pictures that can be read; at least 2 are needed"):
        load(both, skip_unreadable=True)


def test_a_pool_as_it_should_be(both: Path) -> None:
    pool = load(both)
    assert pool.pixels.shape == (69, 3, 8, 8)
    assert pool.pixels.dtype == pool.side.dtype == torch.uint8
    assert pool.labels.dtype == pool.sources.dtype == pool.owners.dtype == torch.int64
    assert ((pool.owners >= 0) == (pool.side == EXTRA)).all()


def test_the_benchmark_tells_how_a_file_becomes_an_input(both: Path) -> None:
    found = own_users(1, load(both), input_size=6)
    assert found.categories == ("bath", "kitchen", "stairs", "beach", "street")
    assert found.preprocessing is not None
    files = [both / "users" / "ann" / "indoors" / "kitchen" / f"{i:02}.png" for i in range(3)]
    assert torch.equal(found.preprocessing(files), found.users[1].images[0].inputs())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda root: (root / "users" / "dora").mkdir(), "user dora has no pictures that can be read"),
        (lambda root: (root / "users/dora/indoors").mkdir(parents=True), "user dora has no pictures that can be read"),
        (lambda root: put(root / "users/dora/indoors", 2, 7000), "user dora has 0 pictures of task outdoors"),
        (lambda root: put(root / "users/dora", 1, 7000), "user dora has 0 pictures of task indoors"),
    ],
    ids=["empty", "an empty task", "a task alone", "one picture without a task"],
)
def test_a_user_who_lacks_pictures_is_named_and_left_out(
    change: Callable[[Path], object], reason: str, both: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = shown(load(both))
    change(both)
    with caplog.at_level(logging.WARNING):
        found = load(both)
    assert found.users == ("Bob", "ann")
    (line,) = caplog.messages
    assert line.startswith(reason)
    assert line.endswith(", and is left out; each user needs at least 2 of every task")
    assert {key: value for key, value in shown(found).items() if key in expected} == expected
    assert all(owner == -1 for key, (_, _, owner) in shown(found).items() if key not in expected)


def test_a_user_of_whom_nothing_can_be_read_is_left_out(both: Path, caplog: pytest.LogCaptureFixture) -> None:
    for path in (both / ANN).rglob("*.png"):
        path.write_bytes(b"x")
    with caplog.at_level(logging.WARNING):
        assert load(both, skip_unreadable=True).users == ("Bob",)
    assert "user ann has no pictures that can be read, and is left out" in caplog.text
    assert "9 of 69 pictures" in caplog.text


def test_pictures_may_lie_in_categories_in_tasks_and_beside_them(both: Path) -> None:
    put(both / "users/ann/indoors", 4, 3000)
    put(both / "users/carl", 5, 4000)
    put(both / "users/dora/indoors", 2, 5000)
    put(both / "users/dora/outdoors", 2, 6000)
    pool = load(both)
    assert pool.users == ("Bob", "ann", "carl", "dora")
    found = {
        user: [
            (int(((pool.owners == owner) & (pool.places == task) & (pool.labels >= 0)).sum()), int(unlabelled.sum()))
            for task in (0, 1, -1)
            for unlabelled in [(pool.owners == owner) & (pool.places == task) & (pool.labels < 0)]
        ]
        for owner, user in enumerate(pool.users)
    }
    assert found == {
        "Bob": [(6, 0), (4, 0), (0, 0)],
        "ann": [(3, 4), (6, 0), (0, 0)],
        "carl": [(0, 0), (0, 0), (0, 5)],
        "dora": [(0, 2), (0, 2), (0, 0)],
    }
    assert (pool.side[pool.owners >= 0] == EXTRA).all()
    assert len(pool.where(SERVER)) == 50


def test_a_picture_that_lies_on_its_side_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(1, 24, 16).save(tmp_path / "lying.png", exif=exif)
    picture(1, 24, 16).rotate(-90, expand=True).save(tmp_path / "upright.png")
    lying, upright = Preprocessing(8, 8, (0.5,) * 3, (0.5,) * 3)([tmp_path / "lying.png", tmp_path / "upright.png"])
    assert torch.equal(lying, upright)
