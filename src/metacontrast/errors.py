"""The errors for what a user can mend."""


class InputError(ValueError):
    """Bad input: the message is one line that says what is wrong and what to do about it.

    The command line prints that line and exits with 2; Python callers catch it as a `ValueError`.
    What cannot be printed, as in names of files, is written as an escape.

    >>> print(InputError("no such file: 'a\\nb'; check its name"))
    no such file: 'a\\nb'; check its name
    """

    def __init__(self, message: str) -> None:
        super().__init__("".join(c if c.isprintable() else repr(c)[1:-1] for c in message))


class InUseError(InputError):
    """Another process holds what is asked for; it may be free later."""
