"""The memory of a Linux process, for measurements that have a process of their own.

A process that has run before uses freed memory again, so that its size says little about what a call takes.
"""

from pathlib import Path


def reset_peak() -> float:
    """Read the resident memory, and set the kernel's record of its peak back to it.

    Returns:
        Bytes; NaN where there is no Linux.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return float("nan")
    return status("VmRSS")


def status(key: str) -> float:
    """Read a size of this process from Linux's `/proc/self/status`.

    Args:
        key: The name of the size.

    Returns:
        Bytes; NaN where there is no Linux.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return next((1024.0 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:")), float("nan"))
