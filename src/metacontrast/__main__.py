"""`python -m metacontrast` is the same as `metacontrast`."""

import sys

from metacontrast.entry import run

sys.exit(run())
