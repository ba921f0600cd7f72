"""Characters that a stream cannot write, or a terminal must not act on.

Text of people's own, such as names of users and folders, is printed as it is. It never ends the program, and what a
terminal would act on is spelt out. Files that are named by it have names that every system takes. Only the standard
library is imported, so that the command line can do it first.
"""

import codecs
import hashlib
import io
import re
import sys

INSTEAD = {"±": "+-", "…": "..."}
"""Characters of the program's own, and how they are written where an encoding lacks them."""
SPELT = "dua_lightning.spelt"
"""The name of the way in which Python encodes what an encoding lacks."""
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""Characters that move a terminal's cursor, change its state, or turn the direction of what follows, numbers too."""

LONGEST = 60
"""The most characters of a text in a file's name; systems take 255 bytes, and a character has up to four."""


def _spelt(error: UnicodeError) -> tuple[str | bytes, int]:
    """The bytes of a file's name that are no text as they are; `INSTEAD`; any other character as its number."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character = error.object[error.start]
    if "\udc80" <= character <= "\udcff":
        return bytes([ord(character) - 0xDC00]), error.start + 1
    return INSTEAD.get(character) or ascii(character)[1:-1], error.start + 1


codecs.register_error(SPELT, _spelt)


def writable(text: str, encoding: str) -> str:
    r"""Give a text as it can be written in an encoding, without control characters but for newlines.

    Args:
        text: The text.
        encoding: The encoding.

    Returns:
        The text with everything else spelt out.

    Examples:
        >>> writable("José ± 1\t小", "ascii")
        'Jos\\xe9 +- 1\\t\\u5c0f'
    """
    plain = CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)
    return plain.encode(encoding, SPELT).decode(encoding, "surrogateescape")


def filename(text: str) -> str:
    """Give the name of a file or folder for a text, another one for each text.

    Args:
        text: The text.

    Returns:
        The text where every system can have it as a name; otherwise without the rest, and with a digest behind it.

    Examples:
        >>> filename("L2-transfer, lr=0.1"), filename("a/b:c")
        ('L2-transfer, lr=0.1', 'a_b_c-3b07f80c')
    """
    plain = re.sub(r"[^-.,=\w ]", "_", text)[:LONGEST]
    if plain == text:
        return text
    return f"{plain}-{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:8]}"


def forgive() -> None:
    """Let the standard streams spell out what their encodings lack, where Python would raise an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=SPELT)
