"""Folders as people and machines leave them: what counts in them, and how names are compared and shown."""

import errno
import os
import re
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from unicodedata import normalize

from dua_lightning.errors import InputError

STRAY = frozenset(
    (
        *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r", "picasa.ini", "zbthumbnail.info"),
        *("$recycle.bin", "recycler", "recycled", "system volume information", "lost+found", "found.000"),
        *("__macosx", "network trash folder", "temporary items", "thevolumesettingsfolder"),
        *("@eadir", "@tmp", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "@__thumb"),
    )
)
"""Names, in small letters, of what file managers, archives and file servers leave beside people's own files."""


def text(name: str) -> str:
    r"""Give a name as text that can be written anywhere; bytes that are no UTF-8 are spelt out.

    Args:
        name: A name as the file system gives it.

    Returns:
        The name itself, but for such bytes.

    Examples:
        >>> text("Jos\udce9")
        'Jos\\xe9'
    """
    return os.fsencode(name).decode(errors="backslashreplace")


def shown(path: str | Path) -> str:
    r"""Write a path in a message of one line; line breaks and other control characters are spelt out.

    Args:
        path: The path.

    Returns:
        The text.

    Examples:
        >>> shown("a\nb")
        'a\\nb'
    """
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", lambda found: ascii(found[0])[1:-1], text(str(path)))


def form(name: str) -> str:
    r"""Give the form in which names are compared and sorted: composed (NFC), whichever form a system writes.

    Args:
        name: A name.

    Returns:
        The form, equal for names that mean the same.

    Examples:
        >>> form("cafe\u0301") == form("caf\u00e9")
        True
    """
    return normalize("NFC", text(name))


def entries(folder: Path) -> list[Path]:
    """List what lies in a folder, sorted by name; hidden things and `STRAY` ones are passed over.

    Args:
        folder: The folder.

    Returns:
        Its files, folders and links.

    Raises:
        InputError: The folder cannot be read.
    """
    try:
        found = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise InputError(f"{shown(folder)} {trouble(folder, error)}; get leave to read it, or remove it") from error
    counted = (path for path in found if path.name.lower() not in STRAY)
    return sorted(counted, key=lambda path: (form(path.name), path.name))


def trouble(path: Path, error: OSError) -> str:
    """Say why a path cannot be read, as the second half of a sentence that begins with it.

    Args:
        path: The path.
        error: The error.

    Returns:
        The reason; for a link with the place that it leads to.
    """
    reason = error.strerror or str(error)
    if not path.is_symlink():
        return f"cannot be read ({reason})"
    ends = {errno.ENOENT: "which is not there", errno.ELOOP: "which leads back to it"}
    return f"is a link to {shown(os.readlink(path))}, {ends.get(error.errno or 0, f'which cannot be read ({reason})')}"


def meant(name: str, known: Iterable[str]) -> str:
    """Say which of some names was probably meant, as the end of a message.

    Args:
        name: A name that is not among them.
        known: The names that there are.

    Returns:
        A question with the nearest name, or the names that there are.

    Examples:
        >>> meant("Kitchn", ["bath", "kitchen"]), meant("x", ["bath", "kitchen"])
        ('did you mean kitchen?', 'there are bath, kitchen')
    """
    small = {other.lower(): other for other in known}
    near = get_close_matches(name.lower(), small, 1)
    return f"did you mean {shown(small[near[0]])}?" if near else f"there are {', '.join(map(shown, small.values()))}"
