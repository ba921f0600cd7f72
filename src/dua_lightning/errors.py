"""The one error that people read."""


class InputError(ValueError):
    """Something the user gave cannot be used.

    Its message is one line that names the value and the next step. The command line prints that line and exits with
    status 2; a library user catches it as a `ValueError`.
    """
