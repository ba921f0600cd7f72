"""Characters that a stream cannot write, or a terminal must not act on.

Text of people's own, such as names of users and folders, is printed as it is. It never ends the program, and what a
terminal would act on is spelt out. Only the standard library is imported, so that the command line can do it first.
"""

import codecs
import io
import re
import sys

INSTEAD = {"±": "+-", "…": "..."}
"""Characters of the program's own, and how they are written where an encoding lacks them."""
SPELT = "dua_lightning.spelt"
"""The name of the way in which Python encodes what an encoding lacks."""
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")
"""Characters that move a terminal's cursor or change its state, but for the end of a line."""


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
    r"""Give a text as it can be written in an encoding, without control characters but for line ends.

    Args:
        text: The text.
        encoding: The encoding.

    Returns:
        The text with everything else spelt out.

    >>> writable("José ± 1\t小", "ascii")
    'Jos\\xe9 +- 1\\t\\u5c0f'
    """
    plain = CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)
    return plain.encode(encoding, SPELT).decode(encoding, "surrogateescape")


def forgive() -> None:
    """Let the standard streams spell out what their encodings lack, where Python would raise an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=SPELT)
