"""`python -m metacontrast` is the same as `metacontrast`."""

import sys

from metacontrast.cli.main import run

sys.exit(run())
