"""The log in the run's folder."""

import logging


class LogFile(logging.FileHandler):
    """A file that says so when it cannot be written; Python's own prints a traceback and goes on."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, the name is Python's
        """Raise the error that writing the record has raised.

        Args:
            record: The record.
        """
        raise
