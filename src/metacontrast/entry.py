"""The process's entry: Ctrl-C is one line and exit 130 at any time, also while libraries are being imported."""

import gc
import os
import signal
import sys
from types import FrameType

from metacontrast.version import INTERRUPTED

_MESSAGE = "metacontrast: interrupted"


def run() -> int:
    """Run the command line of this process."""
    try:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, _interrupt)
        from metacontrast.cli.main import run as run_command

        status = run_command()
        gc.freeze()  # the process ends: searching all objects for garbage would take half a second
        return status
    except KeyboardInterrupt:
        print(_MESSAGE, file=sys.stderr)
        return INTERRUPTED


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise `KeyboardInterrupt`, but end the process at once inside an import.

    Libraries that import parts of themselves on demand may take the exception for a missing part, and recurse.
    """
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os.write(2, f"{_MESSAGE}\n".encode())  # the interrupted code may be in the middle of a `print`
            os._exit(INTERRUPTED)
        frame = frame.f_back
    raise KeyboardInterrupt
