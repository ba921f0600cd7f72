"""Pictures of one's own, from a table."""

import csv
from collections.abc import Iterator
from pathlib import Path

from dua_lightning.data.decode import MOST_PIXELS
from dua_lightning.data.listed import Category, Listed, gathered
from dua_lightning.data.listing import form, meant, shown
from dua_lightning.data.pool import Pool
from dua_lightning.data.splits import DRAWN, FOR_EVALUATION, FOR_VALIDATION
from dua_lightning.errors import InputError

COLUMNS = ("path", "user", "task", "category", "split")
"""The columns that are read; `path`, `task` and `category` must be there."""
SPLITS = {"": DRAWN, "evaluation": FOR_EVALUATION, "adaptation": FOR_VALIDATION}
"""Words of the column `split`, and the half of a user's pictures that they stand for."""


def table(
    table: str | Path,
    size: int,
    cache: str | Path,
    skip_unreadable: bool = False,
    most_pixels: int = MOST_PIXELS,
) -> Pool:
    """Make a pool of the pictures that a CSV file names, which may lie anywhere.

    The file has a line for each picture, in UTF-8, its fields parted by commas or by semicolons, and a header:

    - `path`: the picture file, from the folder of the table.
    - `user`: whose picture it is; empty for the server's.
    - `task` and `category`: what it shows. A user's picture may have no category, or neither.
    - `split`: for a user's picture `evaluation` or `adaptation`; empty where each iteration draws it.

    Columns `user` and `split` may be absent, and others are passed over. Tasks, categories and users are sorted by
    name, and pictures are divided, as `folder` says.

    Args:
        table: The file.
        size: The side of the squares, in pixels.
        cache: The folder of the memory map of decoded pictures.
        skip_unreadable: Whether pictures that cannot be read are left out, and listed in a warning.
        most_pixels: Pictures with more are not read.

    Returns:
        The pool.

    Raises:
        InputError: The file cannot be read, a line cannot be used, the server has no tasks, or `folder` would raise it.
    """
    file = Path(table)
    lines = list(_lines(file))
    seen: dict[Path, str] = {}
    for where, line in lines:
        path = file.parent / line["path"]
        if not line["path"]:
            raise InputError(f"{where} has no path; name a picture file there, or remove the line")
        if (other := seen.setdefault(path, where)) != where:
            raise InputError(f"{where} names the same picture as {other}; keep one of them")
        _check(where, line)
    names = {(form(line["task"]), form(line["category"])) for _, line in lines if not line["user"]}
    tasks = sorted({task for task, _ in names})
    if not tasks:
        raise InputError(f"{shown(file)} has no pictures of the server; leave the column user empty for them")
    categories = [
        Category(category, tasks.index(task), f"category {shown(category)} of task {shown(task)} in {shown(file)}")
        for task, category in sorted(names)
    ]
    users = sorted({form(line["user"]) for _, line in lines if line["user"]})
    known = {task: {c.name: label for label, c in enumerate(categories) if tasks[c.task] == task} for task in tasks}
    pictures = []
    for where, line in lines:
        task, category = form(line["task"]), form(line["category"])
        if task and task not in known:
            raise InputError(f"{where} has task={shown(task)}, which is none of the server; {meant(task, known)}")
        if category and category not in known[task]:
            raise InputError(
                f"{where} has category={shown(category)}, which is none of the server's task {shown(task)}; "
                f"{meant(category, known[task])}"
            )
        pictures.append(
            Listed(
                file.parent / line["path"],
                tasks.index(task) if task else -1,
                known[task][category] if category else -1,
                users.index(form(line["user"])) if line["user"] else -1,
                SPLITS[line["split"]],
            )
        )
    # The order of `folder`: pictures without a category behind those of the task, those without a task at the end.
    pictures.sort(key=lambda one: (one.owner, one.task < 0, one.task, one.label < 0, one.label, form(str(one.path))))
    rest = size, Path(cache), skip_unreadable, most_pixels
    return gathered("table", file.parent, tasks, categories, pictures, users, *rest)


def _lines(file: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """The lines of the table: words for each in messages, and its fields by column, without spaces around them."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{shown(file)} cannot be read ({error.strerror}); name a CSV file") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{shown(file)} is not in UTF-8; save it anew, in a program of tables as CSV UTF-8") from error
    head = text.partition("\n")[0]
    reader = csv.reader(text.splitlines(keepends=True), delimiter=";" if ";" in head else ",", strict=True)
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        _check_header(file, header)
        for fields in reader:
            where = f"line {reader.line_num} of {shown(file)}"
            if not any(field.strip() for field in fields):
                continue
            if len(fields) != len(header):
                raise InputError(f"{where} has {len(fields)} fields, and the header {len(header)}; write as many")
            line = dict(zip(header, (field.strip() for field in fields), strict=True))
            yield where, {column: line.get(column, "") for column in COLUMNS}
    except csv.Error as error:
        raise InputError(f"line {reader.line_num} of {shown(file)} cannot be read ({error}); mend it") from error


def _check_header(file: Path, header: list[str]) -> None:
    for column in COLUMNS:
        count = header.count(column)
        if count > 1 or (count == 0 and column in ("path", "task", "category")):
            raise InputError(f"{shown(file)} has {count} columns {column}; its header is {','.join(COLUMNS)}")
    for name in header:
        # A column with another name is somebody's own, if it was not meant as one of these.
        if name not in COLUMNS and (question := meant(name, COLUMNS)).startswith("did you mean"):
            raise InputError(f"{shown(file)} has a column {shown(name)} that is not read; {question}")


def _check(where: str, line: dict[str, str]) -> None:
    """Raises `InputError` for fields that do not go together."""
    if line["split"] not in SPLITS:
        raise InputError(f"{where} has split={shown(line['split'])}; it is evaluation, adaptation or empty")
    if not line["user"] and line["split"]:
        raise InputError(
            f"{where} has split={line['split']} for a picture of the server, whose validation part is drawn; leave it "
            "empty, or name a user"
        )
    if not line["user"] and not (line["task"] and line["category"]):
        raise InputError(f"{where} has no user, and a picture of the server has a task and a category; give them")
    if line["category"] and not line["task"]:
        raise InputError(f"{where} has category={shown(line['category'])} and no task; give its task")
    if line["split"] == "evaluation" and not line["category"]:
        raise InputError(f"{where} has split=evaluation and no category; give one, or split=adaptation")
