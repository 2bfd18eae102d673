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


def one_line(text: str) -> str:
    r"""The text on one line of one column: file names may hold line breaks and tabs, which are shown as escapes.

    >>> print(one_line("a\tfile\n"))
    a\tfile\n
    """
    return text.translate({ord(each): repr(each)[1:-1] for each in "\t\n\r\v\f\x85\u2028\u2029"})


class InUseError(InputError):
    """Another process holds what is asked for; it may be free later."""
