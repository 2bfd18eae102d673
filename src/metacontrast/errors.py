"""The errors that a user can fix."""

import functools
import importlib.util
from collections.abc import Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """Bad input: the message is one line that says what is wrong and what to do about it.

    The command line prints that line and exits with 2; Python callers catch it as a `ValueError`.
    Control characters, as in names of files, are written as escapes.

    >>> print(InputError("no such file: 'a\\nb'; check its name"))
    no such file: 'a\\nb'; check its name
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Raise `InputError` unless `value` is one of the words `choices`; the nearest is suggested.

    >>> check_choice("order", "Second", ("first", "second"))
    Traceback (most recent call last):
    metacontrast.errors.InputError: order='Second' is not one of 'first', 'second'; did you mean 'second'?
    """
    known = tuple(choices)
    if not isinstance(value, str) or value not in known:
        raise InputError(f"{name}={not_one_of(value, known)}")


def check_counts(least: int = 1, /, **values: int | None) -> None:
    """Raise `InputError` unless every value is `least` or more, or None.

    >>> check_counts(updates=0)
    Traceback (most recent call last):
    metacontrast.errors.InputError: updates=0, but it must be 1 or more
    """
    for name, value in values.items():
        if value is not None and value < least:
            raise InputError(f"{name}={value}, but it must be {least} or more")


def not_one_of(value: object, choices: Iterable[str]) -> str:
    """The complaint about a value that is none of the words `choices`, with the nearest if one is near."""
    known = tuple(choices)
    hint = did_you_mean(getattr(value, "__name__", value), known)
    return f"{value!r} is not one of {', '.join(map(repr, known))}; {hint}".rstrip("; ")


def did_you_mean(word: object, choices: Iterable[str]) -> str:
    """A question for the choice that is spelled most like `word`, with a space after it; empty where none is.

    >>> did_you_mean("Cross-Entropy", ["cross_entropy", "mean_square_error"])
    "did you mean 'cross_entropy'? "
    """
    plain = {_plain(choice): choice for choice in choices}
    close = get_close_matches(_plain(str(word)), plain, n=1)
    return f"did you mean {plain[close[0]]!r}? " if close else ""


def _plain(word: str) -> str:
    return word.lower().replace("_", "-").replace(" ", "-")


def require_extra(what: str, extra: str, *packages: str) -> None:
    """Raise `InputError` unless the packages of an extra are installed.

    Args:
        what: what needs them, as it was asked for.
        extra: its name among the extras of this package.
    """
    if any(importlib.util.find_spec(package) is None for package in packages):
        raise InputError(f"{what} needs an extra: pip install 'metacontrast[{extra}]'")


def first_line(error: BaseException) -> str:
    """The first line of what an exception of a library says, or its class where it says nothing."""
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__


def class_and_line(error: BaseException) -> str:
    """The class of an exception and the first line of what it says, if it says anything.

    >>> class_and_line(KeyError("no such name")), class_and_line(TypeError())
    ("KeyError: 'no such name'", 'TypeError')
    """
    name, line = type(error).__name__, first_line(error)
    return name if line == name else f"{name}: {line}"


class NoSplitError(InputError):
    """A data set has no split of that name."""


class InUseError(InputError):
    """Another process holds what is asked for; it may be free later."""


def one_line(text: str) -> str:
    r"""The text on one line of one column, for names of files and classes: control characters are shown as escapes.

    >>> print(one_line("a\tfile\n\x1b[2J"))
    a\tfile\n\x1b[2J
    """
    return without_controls(text, kept="")


def without_controls(text: str, kept: str) -> str:
    """The text with escapes in place of characters that a terminal obeys or cannot write, but for those `kept`.

    These are the control characters, the marks that reverse the direction of writing, line separators, and halves of
    surrogate pairs, which stand for bytes of file names that are not UTF-8.
    """
    return text.translate(_escapes(kept))


@functools.cache
def _escapes(kept: str) -> dict[int, str]:
    return {code: repr(chr(code))[1:-1] for code in CONTROLS if chr(code) not in kept}


_SURROGATES = range(0xD800, 0xE000)
_MARKS = (0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A))
CONTROLS = (*range(0x20), *range(0x7F, 0xA0), *_MARKS, *_SURROGATES)
