"""The errors that people read."""


class InputError(ValueError):
    """An argument, a setting or a file that was given cannot be used.

    Its message is one line that names the value and the next step. The command line prints that line and exits with
    status 2; a library user catches it as a `ValueError`.
    """


class DivergedError(InputError):
    """Steps of training have led to numbers that are not finite: the learning rate is too large."""
