"""What goes wrong, in two kinds: the input was wrong (exit code 2), or the work failed (exit code 1).

Both carry one message for a person: what was wrong, what was given, what would be right. The command
line prints that message and no traceback unless `--debug` is given.
"""


class PrefloopError(Exception):
    """Base of every error that is meant to be read by a user."""

    exit_code = 1


class InputError(PrefloopError, ValueError):
    """The input or the usage was wrong: a missing file, a wrong column, an unknown setting."""

    exit_code = 2


class RunError(PrefloopError, RuntimeError):
    """The work itself failed: a NaN loss, too many dropped rows, a full disk, a torn artifact."""

    exit_code = 1
