"""Fonts for names in any script, where the system has one that matplotlib's own has not."""

from collections.abc import Iterable
from functools import cache

from matplotlib.font_manager import FontEntry, findfont, fontManager
from matplotlib.ft2font import FT2Font

OWN = "DejaVu Sans"
"""The font that matplotlib brings along."""
PLACEHOLDERS = "Last Resort"
"""The start of the name of fonts that have a box for every character."""


def families(text: str) -> list[str]:
    """Choose fonts that have the characters of a text together, as far as fonts are there.

    Args:
        text: The text.

    Returns:
        The names of the fonts, matplotlib's own first.
    """
    missing = {ord(character) for character in text if not character.isspace()} - _characters(findfont(OWN))
    found = [OWN]
    for entry in _installed() if missing else ():
        if entry.name not in found and missing & _characters(entry.fname):
            found.append(entry.name)
            missing -= _characters(entry.fname)
        if not missing:
            break
    return found


def _installed() -> Iterable[FontEntry]:
    """All other fonts, upright ones of normal weight first."""
    others = (entry for entry in fontManager.ttflist if not entry.name.startswith((OWN, PLACEHOLDERS)))
    return sorted(others, key=lambda entry: (entry.style != "normal", entry.weight not in (400, "normal"), entry.name))


@cache
def _characters(path: str) -> frozenset[int]:
    try:
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError):
        # Fonts of coloured pictures cannot be scaled.
        return frozenset()
