"""The errors for what a user can mend."""


class InputError(ValueError):
    """Bad input: the message is one line that says what is wrong and what to do about it.

    The command line prints that line and exits with 2; Python callers catch it as a `ValueError`.
    """


class InUseError(InputError):
    """Another process holds what is asked for; it may be free later."""
