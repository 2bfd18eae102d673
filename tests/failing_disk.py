"""Disks that fail and processes that die between two operations on files."""

import contextlib
import itertools
import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

from metacontrast import files


@contextlib.contextmanager
def no_more_than(size: int) -> Iterator[None]:
    """Let the operating system refuse, in the middle of a write, to make any file longer than this."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


class Killed(BaseException):
    """The process is gone: nothing that would clean up may touch a file any more."""


_OPERATIONS = [
    *((os, name) for name in ("open", "fsync", "replace", "chmod", "unlink", "mkdir")),
    (Path, "open"),
    (files, "save_file"),
]


@contextlib.contextmanager
def watched(before_operation: Callable[[int], None]) -> Iterator[None]:
    """Call `before_operation` with 0, 1, ... before each operation on files; what it raises, the operation raises."""
    counter = itertools.count()

    def watch(operation):
        def watched_operation(*arguments, **options):
            before_operation(next(counter))
            return operation(*arguments, **options)

        return watched_operation

    with contextlib.ExitStack() as stack:
        for owner, name in _OPERATIONS:
            stack.enter_context(patch.object(owner, name, watch(getattr(owner, name))))
        yield


def fail_once(at: int, error: int) -> contextlib.AbstractContextManager[None]:
    """The operation of that number raises the `OSError` of this number, the others work."""

    def raise_once(number: int) -> None:
        if number == at:
            raise OSError(error, os.strerror(error))

    return watched(raise_once)


def die(at: int) -> contextlib.AbstractContextManager[None]:
    """The process dies before the operation of that number."""

    def raise_from_then_on(number: int) -> None:
        if number >= at:
            raise Killed

    return watched(raise_from_then_on)
