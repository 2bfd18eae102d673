"""Few-shot meta-learning with MAML, and why it learns."""

from metacontrast import theory
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
from metacontrast.version import __version__

__all__ = [
    "ClassImages",
    "Episode",
    "EpisodeSampler",
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
