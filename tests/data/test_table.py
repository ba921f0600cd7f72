"""Pictures of one's own from a table: the pool of the same folders, and every way in which a table can be wrong."""

import csv
from pathlib import Path

import pytest

from dua_lightning.data.folder import folder
from dua_lightning.data.own_users import own_users
from dua_lightning.data.pool import EVALUATION, EXTRA, SERVER, Pool
from dua_lightning.data.splits import FOR_EVALUATION, FOR_VALIDATION
from dua_lightning.data.table import table
from dua_lightning.errors import InputError
from tests.data.scenes import picture

HEADER = ["path", "user", "task", "category", "split"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Folders with a server and users with labels, without, and without tasks."""
    places = [f"server/{of}" for of in ("home/bath", "home/caf\u00e9", "store/deli", "store/toys")]
    places += ["users/ann/home/bath", "users/ann/store/deli", "users/ann/home", "users/bob", "users/bob/home"]
    for seed, place in enumerate(places):
        (tmp_path / "in" / place).mkdir(parents=True, exist_ok=True)
        for i in range(4):
            picture(100 * seed + i).save(tmp_path / "in" / place / f"{i}.png")
    return tmp_path / "in"


def lines(root: Path) -> list[list[str]]:
    """A line for each picture of the folders."""
    found = []
    for path in sorted(root.rglob("*.png"), reverse=True):
        first, *rest, _ = path.relative_to(root).parts
        user, *rest = ["", *rest] if first == "server" else rest
        found.append([str(path.relative_to(root)), user, *[*rest, "", ""][:2], ""])
    return found


def written(root: Path, rows: list[list[str]], delimiter: str = ",", encoding: str = "utf-8", end: str = "\n") -> Path:
    path = root / "pictures.csv"
    with path.open("w", newline="", encoding=encoding) as file:
        csv.writer(file, delimiter=delimiter, lineterminator=end).writerows(rows)
    return path


def load(path: Path, skip_unreadable: bool = False) -> Pool:
    return table(path, 8, path.parent.parent / "cache", skip_unreadable)


@pytest.mark.parametrize("delimiter", [",", ";"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_table_is_the_pool_of_the_same_folders(delimiter: str, encoding: str, end: str, root: Path) -> None:
    found = load(written(root, [HEADER, *lines(root)], delimiter, encoding, end))
    expected = folder(root, 8, root.parent / "cache")
    assert (found.tasks, found.categories, found.users) == (expected.tasks, expected.categories, expected.users)
    for name in ("pixels", "labels", "sources", "side", "owners", "places", "halves"):
        assert getattr(found, name).equal(getattr(expected, name)), name


def test_columns_come_in_any_order_and_case_and_further_ones_are_passed_over(root: Path) -> None:
    rows = [[line[3], "x", line[0], f" {line[2]} ", line[1]] for line in lines(root)]
    found = load(written(root, [["Category", "remarks", "PATH", "task", " user "], *rows, ["", "", "", "", ""]]))
    assert found.labels.equal(folder(root, 8, root.parent / "cache").labels)


def test_without_users_the_pictures_are_divided(root: Path) -> None:
    rows = [line for line in lines(root) if not line[1]]
    found = load(written(root, [["path", "task", "category"], *([path, *of] for path, _, *of, _ in rows)]))
    assert found.users == ()
    for label in range(4):
        assert [len(found.where(side, [label])) for side in (SERVER, EVALUATION, EXTRA)] == [2, 1, 1]


def test_the_split_of_a_users_picture_is_kept(root: Path) -> None:
    rows = lines(root)
    words = ["evaluation", "adaptation", "", ""]
    for line in rows:
        line[4] = words[int(Path(line[0]).stem)] if line[1] == "ann" and line[3] else ""
    pool = load(written(root, [HEADER, *rows]))
    assert pool.halves is not None
    of_ann = (pool.owners == 0) & (pool.labels >= 0)
    assert [int((pool.halves[of_ann] == half).sum()) for half in (FOR_EVALUATION, FOR_VALIDATION)] == [2, 2]
    ann = own_users(1, pool, input_size=8).users[0]
    assert len(ann.evaluation) == 4
    assert len(ann.validation) == 8


def test_pictures_lie_anywhere(root: Path, tmp_path: Path) -> None:
    rows = [[str(root / line[0]), *line[1:]] for line in lines(root)]
    (tmp_path / "elsewhere").mkdir()
    assert len(load(written(tmp_path / "elsewhere", [HEADER, *rows])).labels) == len(rows)
    rows[0][0] = "/absent.png"
    with pytest.raises(InputError, match=r"1 of 36 pictures cannot be read; /absent\.png .*No such file"):
        load(written(tmp_path / "elsewhere", [HEADER, *rows]))
    assert len(load(written(tmp_path / "elsewhere", [HEADER, *rows]), skip_unreadable=True).labels) == 35


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["", "", "home", "bath", ""], "line 2 of PATH has no path"),
        (["server/home/bath/0.png", "", "home", "bath", ""], r"line \d+ of PATH names the same picture as line 2 of"),
        (["a.png", "", "home", "", ""], "line 2 of PATH has no user, and a picture of the server has a task and a cat"),
        (["a.png", "ann", "", "bath", ""], "line 2 of PATH has category=bath and no task"),
        (
            ["a.png", "ann", "hom", "", ""],
            r"line 2 .* task=hom, which is none of the server; did you mean home\?",
        ),
        (
            ["a.png", "ann", "home", "deli", ""],
            "line 2 .* category=deli, which is none of the server's task home",
        ),
        (["a.png", "ann", "home", "bath", "train"], "line 2 of PATH has split=train; it is evaluation, adaptation or"),
        (["a.png", "ann", "home", "", "evaluation"], "line 2 of PATH has split=evaluation and no category; give one"),
        (
            ["a.png", "", "home", "bath", "evaluation"],
            "line 2 of PATH has split=evaluation for a picture of the",
        ),
        (["a.png", "", "home"], "line 2 of PATH has 3 fields, and the header 5"),
        (["a.png", "", "attic", "box", ""], "task attic has 1 category; give it at least two"),
        (["a.png", "", "home", "hall", ""], "category hall of task home in PATH has 1 pictures that can be read"),
    ],
    ids=lambda value: None if isinstance(value, list) else value[:40],
)
def test_a_line_that_cannot_be_used_is_named(line: list[str], words: str, root: Path) -> None:
    path = written(root, [HEADER, line, *lines(root)])
    with pytest.raises(InputError, match=words.replace("PATH", str(path))) as caught:
        load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "has 0 columns path; its header is path,user,task,category,split"),
        (b"path,task,user\n", "has 0 columns category"),
        (b"path,task,category,task\n", "has 2 columns task"),
        (b"path,task,category,spilt\n", r"has a column spilt that is not read; did you mean split\?"),
        (b"path,task,category\n", "has no pictures of the server; leave the column user empty"),
        ("path,task,category\na,\xe9,b".encode("latin-1"), "is not in UTF-8; save it anew"),
        (b'path,task,category\na,"b"c,d\n', "line 2 of .* cannot be read"),
    ],
    ids=["empty", "no category", "twice", "misspelt", "no server", "Latin-1", "quotes"],
)
def test_a_file_that_is_no_such_table_is_named(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "pictures.csv").write_bytes(content)
    with pytest.raises(InputError, match=words):
        load(tmp_path / "pictures.csv")
    with pytest.raises(InputError, match=r"absent\.csv cannot be read"):
        load(tmp_path / "absent.csv")
