"""Few-shot meta-learning with MAML, and why it learns.

Names are imported when they are first asked for, so that the command line is there at once.
"""

from metacontrast.version import __version__

TYPE_CHECKING = False  # without importing `typing`, so that `entry` soon has its way of taking Ctrl-C
if TYPE_CHECKING:
    from metacontrast import theory
    from metacontrast.classifier.estimator import FewShotClassifier
    from metacontrast.data.catalog import load_dataset
    from metacontrast.data.episodes import EpisodeSampler
    from metacontrast.data.images import ClassImages
    from metacontrast.errors import InputError
    from metacontrast.maml.engine import meta_gradient
    from metacontrast.maml.inner import Inner, adapt
    from metacontrast.model import encoders
    from metacontrast.model.head import zero_head
    from metacontrast.model.model import Model
    from metacontrast.types import Episode, Head, Params, map_params

_MODULES = {"encoders": "metacontrast.model.encoders", "theory": "metacontrast.theory"}
_HOMES = {
    "ClassImages": "data.images",
    "Episode": "types",
    "EpisodeSampler": "data.episodes",
    "FewShotClassifier": "classifier.estimator",
    "Head": "types",
    "Inner": "maml.inner",
    "InputError": "errors",
    "Model": "model.model",
    "Params": "types",
    "adapt": "maml.inner",
    "load_dataset": "data.catalog",
    "map_params": "types",
    "meta_gradient": "maml.engine",
    "zero_head": "model.head",
}

__all__ = [
    "ClassImages",
    "Episode",
    "EpisodeSampler",
    "FewShotClassifier",
    "Head",
    "Inner",
    "InputError",
    "Model",
    "Params",
    "__version__",
    "adapt",
    "encoders",
    "load_dataset",
    "map_params",
    "meta_gradient",
    "theory",
    "zero_head",
]


def __getattr__(name: str):
    import importlib

    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name not in _HOMES:
        raise AttributeError(f"module 'metacontrast' has no attribute {name!r}")
    return getattr(importlib.import_module(f"metacontrast.{_HOMES[name]}"), name)
