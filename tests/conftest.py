"""Strict numerics for every test: shape types are enforced and warnings are errors."""

import os
from pathlib import Path

from jaxtyping import install_import_hook

install_import_hook("metacontrast", "beartype.beartype")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest  # noqa: E402
import torch  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread():
    """One thread makes every run the same sequence of floating-point operations."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Cache files of the tests go to a folder of their own, made once for all of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METACONTRAST_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the real data sets; tests that need it are skipped where there is none."""
    root = os.environ.get("METACONTRAST_DATA")
    if not root:
        pytest.skip("METACONTRAST_DATA is not set")
    return Path(root)
