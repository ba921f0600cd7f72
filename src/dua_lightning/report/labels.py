"""The parts of a row's label, the one name that a row has in every table, figure and file.

`run.rows` makes it: the method's name, the choices that are not the method's own, and last, behind a plus, the
adaptation. Where runs that are read together have one label for several settings, `runs` writes these behind it.
"""

import re

FEW = re.compile(r" \+ AdaBN of (\d+) images")
"""The end of a row's label that tells how many images AdaBN took."""
OF_FEW = re.compile(r" of \d+ images")
"""The part of a row's label that tells that any adaptation took a few images."""
SETTING = re.compile(r", (?:calibrated )?\w+ statistics| \+ (?:\([^)]*\)|[^,(])*")
"""The parts of a row's label that tell its statistics and its adaptation, whose settings may be in brackets."""


def kin(label: str) -> str:
    """Cut a row's label to its training and merge.

    Args:
        label: The label.

    Returns:
        The label without statistics and adaptation.

    >>> kin("MAS-IMM, server statistics + TENT (epochs 1, lr 0.1)")
    'MAS-IMM'
    >>> kin("MAS-IMM, calibrated server statistics + auto")
    'MAS-IMM'
    """
    return SETTING.sub("", label)


def setting(label: str) -> str:
    """Cut a row's label to its statistics and adaptation.

    Args:
        label: The label.

    Returns:
        What `kin` leaves out.

    >>> setting("MAS-IMM, server statistics + AdaBN")
    ', server statistics + AdaBN'
    """
    return "".join(SETTING.findall(label))


def adaptation(label: str) -> str:
    """Cut a row's label to its adaptation.

    Args:
        label: The label.

    Returns:
        What stands behind the plus, or the whole label of a row whose adaptation is its method's own.

    >>> adaptation("MAS-IMM, server statistics + AdaBN of 5 images"), adaptation("Task Experts")
    ('AdaBN of 5 images', 'Task Experts')
    """
    return label.partition(" + ")[2] or label
