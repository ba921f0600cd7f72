"""Folders of pictures: any names, content that changes under equal names, sizes and times, and links to nothing."""

import os
import shutil
from collections.abc import Iterator
from functools import cache
from io import BytesIO
from pathlib import Path
from random import Random

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from dua_lightning.data.folder import folder
from dua_lightning.data.listing import STRAY, text
from dua_lightning.data.own_users import own_users
from dua_lightning.errors import InputError
from dua_lightning.report import records
from dua_lightning.report.records import Record
from dua_lightning.store.store import digest
from tests.data.scenes import picture

CHARACTERS = (
    st.characters(exclude_characters="\0/", exclude_categories=["Cs"])
    # Bytes that are no UTF-8, as Python holds them.
    | st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF)
    | st.sampled_from("=,[]{}()'\"\\\n\r\t $%#*?!|&;<>:@~-_éüß\u0301\u202e\u05d0\u0628\u200d中文\U0001f600")
)
SPECIAL = (
    *("cafe\u0301", "caf\u00e9", "a=b,c", "[b]", "[red]x", "-m", "~", "nan", "007", "null", "${seed}", "a" * 200),
    *("\u05d0\u05d1\u05d2", "\u202eabc", "图片", "\U0001f468\u200d\U0001f469", "x\ny", " ", "Jos\udce9", "joint", "%s"),
)


def _a_name(name: str) -> bool:
    """Whether a file or folder may be called so, and is not passed over."""
    try:
        length = len(os.fsencode(name))
    except UnicodeEncodeError:
        return False
    return 0 < length < 250 and not name.startswith(".") and name.lower() not in STRAY


NAMES = st.one_of(st.text(CHARACTERS, min_size=1, max_size=8), st.sampled_from(SPECIAL)).filter(_a_name)
"""Names that a file or a folder may have."""


@cache
def _picture(number: int) -> bytes:
    """A picture; all of them have the same size in bytes."""
    picture(number, 6, 6).save(file := BytesIO(), "BMP")
    return file.getvalue()


def tree(root: Path, user: str = "ann", task: str = "a", category: str = "x", file: str = "0.bmp") -> Path:
    """A server with two tasks and a user, some of them called as is asked for; two pictures of each category."""
    number = 0
    for who in ("server", Path("users", user)):
        for of_task in (task, "other task"):
            for of_category in (category, "other category"):
                place = root / who / of_task / of_category
                place.mkdir(parents=True)
                for name in (file, "other file"):
                    number += 1
                    (place / name).write_bytes(_picture(number))
    return root


def drawn(count: int) -> list[tuple[str, str, str, str]]:
    """The names of a user, a task, a category and a file."""
    found: list[tuple[str, str, str, str]] = []

    @settings(
        max_examples=count,
        database=None,
        derandomize=True,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.tuples(NAMES, NAMES, NAMES, NAMES))
    def draw(names: tuple[str, str, str, str]) -> None:
        found.append(names)

    draw()
    return found


def named(count: int, at: Path) -> Iterator[tuple[object, str]]:
    """Names at random, and what is wrong with how they are read, split by them, kept and written."""
    for names in drawn(count):
        try:
            wrong = _named(*names, at)
        except Exception as error:
            wrong = f"{type(error).__name__}: {error}"
        yield ascii(names), ascii(wrong) if wrong else ""
        shutil.rmtree(at)


def _named(user: str, task: str, category: str, file: str, at: Path) -> str:
    pool = folder(tree(at / "own", user, task, category, file), 6, at / "cache")
    if len(pool.labels) != 16 or pool.users != (text(user),):
        return f"{len(pool.labels)} pictures, of {pool.users}"
    if {of.name for of in pool.tasks} != {text(task), "other task"} or text(category) not in pool.categories:
        return f"{pool.tasks} {pool.categories}"
    benchmark = own_users(1, pool, input_size=6, iterations=1)
    data = benchmark.users[0]
    digest(data.recipe(), *(of_task.recipe() for of_task in benchmark.server))
    if sum(len(half) for half in (data.evaluation, data.validation)) != 8:
        return "other halves"
    record = Record(
        "d", "m", "n", "i", "a", pool.tasks[0].name, "paper", "user", "last", "images", data.user, 1, 1, 1, 1, 50.0
    )
    records.write([record], at / "records.csv")
    (at / "records.csv").read_text(encoding="utf-8")
    (found,) = records.read(at / "records.csv").to_dict("records")
    return "" if Record(**found) == record else f"another record, {found}"


def changed(count: int, at: Path) -> Iterator[tuple[object, str]]:
    """Pictures that get the content of others, while their names, sizes and times stay."""
    random = Random(0)
    root = tree(at / "own")
    files = sorted(root.rglob("*/*/*/*"))
    files = [path for path in files if path.is_file()]
    for path in files:
        os.utime(path, (1, 1))
    for trial in range(count):
        for path in random.sample(files, random.randint(1, 3)):
            path.write_bytes(_picture(random.randint(100, 10_000)))
            os.utime(path, (1, 1))
        pool, fresh = folder(root, 6, at / "cache"), folder(root, 6, at / f"fresh{trial}")
        shutil.rmtree(at / f"fresh{trial}")
        yield trial, "" if pool.pixels.equal(fresh.pixels) else "pictures of the cache"


def dead(at: Path) -> Iterator[tuple[object, str]]:
    """Links that lead nowhere or to themselves, files where folders belong, and empty folders, at each level."""
    levels = ("", "server", "server/a", "server/a/x", "users", "users/ann", "users/ann/a", "users/ann/a/x")
    for level in levels:
        for kind in ("link to nothing", "link to itself", "file", "empty"):
            path = tree(at / "own") / level
            shutil.rmtree(path)
            if kind == "file":
                path.write_text("")
            elif kind == "empty":
                path.mkdir()
            else:
                path.symlink_to("gone" if kind == "link to nothing" else path.name)
            target = {"link to nothing": "gone", "link to itself": path.name}.get(kind, "")
            yield (level, kind), _refused(at, path, target)
            shutil.rmtree(at / "own") if path != at / "own" or kind == "empty" else path.unlink()


def _refused(at: Path, path: Path, target: str) -> str:
    try:
        folder(at / "own", 6, at / "cache")
    except InputError as error:
        line = str(error)
        named = str(path) in line or (not target and "user ann has " in line)
        return "" if "\n" not in line and named and target in line else f"no line that names it: {line}"
    return "nothing was said"
