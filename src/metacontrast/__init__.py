"""Few-shot meta-learning with MAML, and why it learns."""

from metacontrast.version import __version__ as __version__
