"""Strict numerics for every test: shape types are enforced and warnings are errors."""

import os

from jaxtyping import install_import_hook

install_import_hook("metacontrast", "beartype.beartype")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest  # noqa: E402
import torch  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread():
    """One thread makes every run the same sequence of floating-point operations."""
    torch.set_num_threads(1)
