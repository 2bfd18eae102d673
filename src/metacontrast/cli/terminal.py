"""What people read: characters that a terminal obeys are shown, not sent, and parameters are called by their flags."""

import contextlib
import io
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from metacontrast.errors import one_line, without_controls


class ShownControls:
    """A text stream on which control characters are written as escapes, but for those `kept`."""

    def __init__(self, stream: Any, kept: str):
        self._stream, self._kept = stream, kept

    def write(self, text: str) -> int:
        """Write the text, its control characters as escapes."""
        self._stream.write(without_controls(text, self._kept))
        return len(text)

    def flush(self) -> None:
        """Send what was written."""
        self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def shown_controls() -> Iterator[None]:
    """Show control characters on both standard streams inside the block, and print log messages as lines.

    Progress bars on standard error return to the start of their line.
    """
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # also for letters that its encoding has not
    out, err = ShownControls(sys.stdout, "\n\t"), ShownControls(sys.stderr, "\n\t\r")
    log, handler = logging.getLogger("metacontrast"), _Lines()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        log.addHandler(handler)
        try:
            yield
        finally:
            log.removeHandler(handler)


def with_flags(message: str, flags: Mapping[str, str]) -> str:
    """Replace parameter names in a message by the command's flags.

    >>> flags = {"scope": "--scope", "max_pixels": "--max-pixels"}
    >>> with_flags("pass scope='head' or raise max_pixels", flags)
    'pass --scope head or raise --max-pixels'

    Args:
        flags: the flag of every parameter that the command has.
    """
    given = r"(?<![\w./'\"-])(?<!: )(\w+)=(?:'(\w+)'|(?=\S))"
    message = re.sub(
        given, lambda found: f"{flags[found[1]]} {found[2] or ''}" if found[1] in flags else found[0], message
    )
    alone = r"(?<![\w./'\"=-])(\w+_\w+)(?![./'\"-]\w|=)"
    return re.sub(alone, lambda found: flags.get(found[1], found[1]), message)


class _Lines(logging.Handler):
    """Handler that prints the library's warnings as lines on standard error."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        print(one_line(record.getMessage()), file=sys.stderr, flush=True)
