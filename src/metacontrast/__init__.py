"""Few-shot meta-learning with MAML, and why it learns.

The names below are the public interface; modules under `metacontrast` may change without notice. Names are imported
when they are first asked for, so that the command line is there at once.
"""

from metacontrast.version import __version__

TYPE_CHECKING = False  # without importing `typing`, so that `entry` soon has its way of taking Ctrl-C
if TYPE_CHECKING:
    from metacontrast import methods, theory
    from metacontrast.classifier.estimator import FewShotClassifier
    from metacontrast.classifier.starting_point import StartingPoint
    from metacontrast.classifier.support import images_from_dataset
    from metacontrast.data.augment import Augmentation
    from metacontrast.data.catalog import load_dataset
    from metacontrast.data.decode import ReadOptions
    from metacontrast.data.episodes import BalancedBatches, EpisodeSampler
    from metacontrast.data.image_format import ImageFormat
    from metacontrast.data.images import ClassImages, images_from_arrays
    from metacontrast.data.regression import AngleTasks, SineTasks
    from metacontrast.diagnostics.gradient import explain
    from metacontrast.errors import InputError
    from metacontrast.maml.engine import Engine, meta_gradient
    from metacontrast.maml.inner import adapt, learned_rates
    from metacontrast.maml.outer import Metrics
    from metacontrast.model import encoders
    from metacontrast.model.head import zero_head
    from metacontrast.model.model import Model
    from metacontrast.training.config import TrainConfig, with_fields
    from metacontrast.training.evaluate import Evaluation, evaluate
    from metacontrast.training.recipes import recipe
    from metacontrast.training.records import scalars
    from metacontrast.training.run import load_params, load_run
    from metacontrast.training.train import train
    from metacontrast.training.train_run import train_config
    from metacontrast.types import Episode, Head, Inner, Params, from_tensors, map_params, to_tensors

_PUBLIC = {
    # Values
    "Episode": "types",
    "Head": "types",
    "Params": "types",
    "from_tensors": "types",
    "map_params": "types",
    "to_tensors": "types",
    "InputError": "errors",
    # Data
    "AngleTasks": "data.regression",
    "Augmentation": "data.augment",
    "BalancedBatches": "data.episodes",
    "ClassImages": "data.images",
    "EpisodeSampler": "data.episodes",
    "ReadOptions": "data.decode",
    "SineTasks": "data.regression",
    "images_from_arrays": "data.images",
    "images_from_dataset": "classifier.support",
    "load_dataset": "data.catalog",
    # Models
    "Model": "model.model",
    "zero_head": "model.head",
    # MAML
    "Engine": "maml.engine",
    "Inner": "types",
    "Metrics": "maml.outer",
    "adapt": "maml.inner",
    "learned_rates": "maml.inner",
    "meta_gradient": "maml.engine",
    # Training and evaluation
    "Evaluation": "training.evaluate",
    "TrainConfig": "training.config",
    "evaluate": "training.evaluate",
    "load_params": "training.run",
    "load_run": "training.run",
    "recipe": "training.recipes",
    "scalars": "training.records",
    "train": "training.train",
    "train_config": "training.train_run",
    "with_fields": "training.config",
    # Why it learns
    "explain": "diagnostics.gradient",
    # A classifier of your own images
    "FewShotClassifier": "classifier.estimator",
    "ImageFormat": "data.image_format",
    "StartingPoint": "classifier.starting_point",
}
_MODULES = {"encoders": "model.encoders", "methods": "methods", "theory": "theory"}

__all__ = [
    "AngleTasks",
    "Augmentation",
    "BalancedBatches",
    "ClassImages",
    "Engine",
    "Episode",
    "EpisodeSampler",
    "Evaluation",
    "FewShotClassifier",
    "Head",
    "ImageFormat",
    "Inner",
    "InputError",
    "Metrics",
    "Model",
    "Params",
    "ReadOptions",
    "SineTasks",
    "StartingPoint",
    "TrainConfig",
    "__version__",
    "adapt",
    "encoders",
    "evaluate",
    "explain",
    "from_tensors",
    "images_from_arrays",
    "images_from_dataset",
    "learned_rates",
    "load_dataset",
    "load_params",
    "load_run",
    "map_params",
    "meta_gradient",
    "methods",
    "recipe",
    "scalars",
    "theory",
    "to_tensors",
    "train",
    "train_config",
    "with_fields",
    "zero_head",
]


def __getattr__(name: str):
    import importlib

    if name in _MODULES:
        return importlib.import_module(f"metacontrast.{_MODULES[name]}")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'metacontrast' has no attribute {name!r}")
    return getattr(importlib.import_module(f"metacontrast.{_PUBLIC[name]}"), name)


def __dir__():
    return __all__
