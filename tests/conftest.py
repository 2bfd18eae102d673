"""Strict numerics for every test: shape types are enforced and warnings are errors."""

import os
from pathlib import Path

from jaxtyping import install_import_hook

SHAPED = ("classifier", "data", "diagnostics", "experiments.statistics", "maml", "methods", "model", "theory")
SHAPED += ("training.evaluate", "training.libraries", "types")
install_import_hook([f"metacontrast.{each}" for each in SHAPED], "shape_checks.enforced")
THREADS = os.environ.get("METACONTRAST_TEST_THREADS", "1")
os.environ["OMP_NUM_THREADS"] = THREADS  # for processes that tests start: several threads of each would wait for cores
os.environ.setdefault("MPLBACKEND", "Agg")
if data := os.environ.get("METACONTRAST_DATA"):  # tests change the folder
    os.environ["METACONTRAST_DATA"] = str(Path(data).resolve())

import pytest  # noqa: E402
import torch  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from metacontrast.data import image_format, images  # noqa: E402
from metacontrast.files import write_text  # noqa: E402
from metacontrast.model.model import Model  # noqa: E402
from metacontrast.plots import _RC  # noqa: E402
from metacontrast.types import map_params  # noqa: E402

LONGEST = ("test_docs.py", "test_commands.py", "test_browser.py", "test_gpu_path.py", "test_engine.py", "test_site.py")


def pytest_collection_modifyitems(items):
    """The longest files first, so that no process is left alone with one of them at the end."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


torch.set_num_threads(int(THREADS))  # for fixtures of a whole module too


@pytest.fixture(autouse=True)
def few_threads():
    """One thread in every operation, or as many as `tests/processors.py` wants."""
    torch.set_num_threads(int(THREADS))


@pytest.fixture
def in_float64(monkeypatch):
    """Models start from float64 parameters and see float64 images.

    Two programs, or one program at two shapes, then agree to 1e-12 and better on every processor. In float32 they
    agree to 6e-8 times the condition of what is computed, of which batch norm and RMSprop make 1e-4 and more.
    """
    init, normalize = Model.init, images.normalize
    monkeypatch.setattr(Model, "init", lambda *given, **named: map_params(torch.Tensor.double, init(*given, **named)))
    for module in (images, image_format):
        monkeypatch.setattr(module, "normalize", lambda *given: normalize(*given).double())


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Cache files of the tests go to a folder of their own, made once for all of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METACONTRAST_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def outlined_letters():
    """PDF files describe their letters by outlines, which takes a third less time than TrueType fonts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(_RC, "pdf.fonttype", 3)
        yield


@pytest.fixture
def undrawn_explanations(monkeypatch):
    """Empty files in place of the pictures of `explain`, which take most of its time; `test_explain.py` draws them."""

    def save_nothing(figure: Figure, path: Path) -> Path:
        write_text(path, "")
        return path

    monkeypatch.setattr("metacontrast.report.report.save_figure", save_nothing)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the real data sets; tests that need it are skipped where there is none."""
    root = os.environ.get("METACONTRAST_DATA")
    if not root:
        pytest.skip("METACONTRAST_DATA is not set")
    return Path(root)
