"""The package's version, read by the build and written into every record; the exit status after Ctrl-C."""

__version__ = "0.1.0"
INTERRUPTED = 130
