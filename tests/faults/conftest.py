"""Modules that change the process they are loaded into are none to look for tests in."""

collect_ignore = ["inject.py", "short.py"]
