"""The process's entry: Ctrl-C is exit 130 also while the libraries are being imported."""

import sys

from metacontrast.version import INTERRUPTED


def run() -> int:
    """Run the command line of this process."""
    try:
        from metacontrast.cli.main import run as run_command

        return run_command()
    except KeyboardInterrupt:
        print("metacontrast: interrupted", file=sys.stderr)
        return INTERRUPTED
